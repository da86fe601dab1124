# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping a guest_memfd into the host: what mmap(), touching and advice do."""

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.pins import Hold
from cvmlab.generations.host.mapping import Advice, BusError, HostMapping, map_file
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.support import KEEP, PG, PUNCH, refused


if TYPE_CHECKING:
    from cvmlab.generations.files.open_file import Fd


RW = mmap.PROT_READ | mmap.PROT_WRITE
SHARED, COPY = mmap.MAP_SHARED, mmap.MAP_PRIVATE
MMAP, INIT_SHARED = 1, 2


class Mapped:
    """A file of four pages in a VM of 6.18, and a mapping of sixteen."""

    def __init__(self, flags: int, nodes: int = 1) -> None:
        self.kvm = Kvm(Generation.MAPPABLE_GUEST_MEMFD, version="6.18", nodes=nodes)
        self.vm: EmulatedVm = self.kvm.create_vm()
        self.fd: Fd = self.vm.create_guest_memfd(4 * PG, flags)
        self.mapping: HostMapping = map_file(self.fd.file, 16 * PG, RW, SHARED)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.inode: GuestMemfd = inode

    def close(self) -> None:
        self.mapping.close()
        self.vm.close()
        self.fd.close()


@pytest.fixture
def shared() -> Iterator[Mapped]:
    made = Mapped(MMAP | INIT_SHARED, nodes=2)
    yield made
    made.close()


@pytest.fixture
def private() -> Iterator[Mapped]:
    made = Mapped(MMAP)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("flags", "protection", "kind", "errno"),
    [
        pytest.param(0, RW, SHARED, "ENODEV", id="F01-no flag"),
        pytest.param(0, RW, COPY, "ENODEV", id="F01-no flag, private"),
        pytest.param(INIT_SHARED, RW, SHARED, "ENODEV", id="F01-INIT_SHARED alone"),
        pytest.param(0, RW | mmap.PROT_EXEC, SHARED, "EPERM", id="F02-no flag"),
        pytest.param(MMAP, RW | mmap.PROT_EXEC, SHARED, "EPERM", id="F02-mappable"),
        pytest.param(MMAP, RW, COPY, "EINVAL", id="F03-copy on write"),
        pytest.param(MMAP | INIT_SHARED, mmap.PROT_READ, COPY, "EINVAL", id="F03-read only"),
    ],
)
def test_mmap_refuses(flags: int, protection: int, kind: int, errno: str) -> None:
    fd = Kvm(Generation.MAPPABLE_GUEST_MEMFD).create_vm().create_guest_memfd(PG, flags)
    with refused(errno):
        map_file(fd.file, PG, protection, kind)
    fd.close()


def test_f04_a_private_page_is_sigbus(private: Mapped) -> None:
    assert private.mapping.touch(0) == BusError(0)
    assert private.mapping.touch(3 * PG + 5, b"x") == BusError(3 * PG + 5)
    assert private.inode.storage.usage.host_bytes == 0


def test_f05_shared_pages_are_zero_and_seen_by_both(shared: Mapped) -> None:
    shared.vm.set_region(Region(0, 0, 4 * PG, 4), shared.fd)
    assert shared.mapping.touch(PG, size=4) == bytes(4)
    shared.mapping.touch(0, b"\xaa" * 8)
    assert shared.vm.read(0) == b"\xaa" * 8
    shared.vm.write(0, b"\xff" * 8)
    assert shared.mapping.touch(0, size=8) == b"\xff" * 8


def test_f06_bytes_before_the_end_are_written(shared: Mapped) -> None:
    assert shared.mapping.touch(4 * PG) == BusError(4 * PG)
    assert shared.mapping.touch(4 * PG - 2, b"1234") == BusError(4 * PG)
    assert shared.mapping.touch(4 * PG - 2, size=2) == b"12"


def test_f07_a_mapping_cannot_become_executable(shared: Mapped) -> None:
    with refused("EACCES", "F07"):
        shared.mapping.protect(RW | mmap.PROT_EXEC)
    shared.mapping.protect(mmap.PROT_READ)


@pytest.mark.parametrize(
    ("advice", "errno"),
    [
        pytest.param(Advice.HUGEPAGE, None, id="F08-hugepage"),
        pytest.param(Advice.COLLAPSE, "EINVAL", id="F08-collapse"),
        pytest.param(Advice.DONTNEED, None, id="F08-dontneed"),
        pytest.param(Advice.FREE, "EINVAL", id="F08-free"),
        pytest.param(Advice.REMOVE, None, id="F08-remove"),
        pytest.param(Advice.POPULATE, None, id="F08-populate"),
        pytest.param(Advice.LOCK, None, id="F09-lock"),
    ],
)
def test_advice_on_shared_pages(shared: Mapped, advice: Advice, errno: str | None) -> None:
    shared.mapping.touch(0, b"some")
    if errno:
        with refused(errno):
            shared.mapping.advise(advice, 0, PG)
    else:
        shared.mapping.advise(advice, 0, PG)
    gone = advice is Advice.REMOVE
    assert shared.mapping.touch(0, size=4) == (bytes(4) if gone else b"some")


@pytest.mark.parametrize(
    ("advice", "errno"),
    [
        pytest.param(Advice.POPULATE, "EFAULT", id="F08-populate"),
        pytest.param(Advice.LOCK, "ENOMEM", id="F09-lock"),
    ],
)
def test_advice_on_private_pages(private: Mapped, advice: Advice, errno: str) -> None:
    with refused(errno):
        private.mapping.advise(advice, 0, PG)
    assert private.inode.storage.usage.host_bytes == 0


def test_f10_the_host_pins_shared_pages_only(shared: Mapped, private: Mapped) -> None:
    pin = shared.mapping.pin(PG, 2 * PG, "vmsplice", Hold.IO)
    assert (pin.start, pin.end, shared.inode.pins.count(1)) == (1, 3, 1)
    with refused("EFAULT", "F10"):
        private.mapping.pin(PG, PG, "vmsplice", Hold.IO)


@pytest.mark.parametrize(
    ("mode", "nodes", "legal"),
    [
        pytest.param(0, (), True, id="F11-default"),
        pytest.param(2, (1,), True, id="F11-bind"),
        pytest.param(3, (0, 1), True, id="F11-interleave"),
        pytest.param(99, (0,), False, id="F11-no such mode"),
        pytest.param(2, (7,), False, id="F11-no such node"),
        pytest.param(2, (), False, id="F11-no node"),
        pytest.param(0, (1,), False, id="F11-default with nodes"),
    ],
)
def test_policies_of_a_mapping(
    shared: Mapped, mode: int, nodes: tuple[int, ...], *, legal: bool
) -> None:
    if legal:
        shared.mapping.bind_memory(mode, nodes)
        assert (shared.mapping.policy.policy, shared.mapping.policy.nodes) == (mode, nodes)
    else:
        with refused("EINVAL", "F11"):
            shared.mapping.bind_memory(mode, nodes)


def test_f12_pages_are_placed_by_the_policy_also_after_a_punch(shared: Mapped) -> None:
    shared.mapping.bind_memory(3, (0, 1))
    shared.fd.fallocate(KEEP, 0, 4 * PG)
    assert [shared.inode.page(index).node for index in range(4)] == [0, 1, 0, 1]
    shared.fd.fallocate(PUNCH, 0, 4 * PG)
    shared.mapping.bind_memory(2, (1,))
    shared.mapping.touch(0, b"x")
    assert shared.inode.page(0).node == 1


@pytest.mark.parametrize("flags", [MMAP, MMAP | INIT_SHARED], ids=["F13-private", "F13-shared"])
def test_the_guest_maps_everything_through_the_file(flags: int) -> None:
    made = Mapped(flags)
    made.vm.set_region(Region(0, 0, 4 * PG, 4), made.fd)
    made.vm.write(2 * PG, b"guest")
    assert made.inode.storage.read(2 * PG, 5) == b"guest"
    made.close()


def test_f20_6_18_has_no_conversion_of_its_own(shared: Mapped) -> None:
    with refused("ENOTTY", "F20"):
        convert(shared.inode, ConvertRequest(0, PG, 8))
