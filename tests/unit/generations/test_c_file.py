# SPDX-License-Identifier: GPL-2.0-or-later
"""memfd_restricted files: what user space may do, bindings, notifications, slots."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cvmlab.generations.compat import override
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.restrictedmem import RestrictedFile, RestrictedKernel
from cvmlab.generations.vms.exits import ExitReason, VcpuExit, VmType
from cvmlab.generations.vms.private_slots import PrivateVm
from cvmlab.generations.vms.slots import Region, Userspace
from tests.unit.generations.support import KEEP, M2, PG, PUNCH, Listener, refused


@contextmanager
def opened(version: str = "v10", quirks: tuple[str, ...] = (), nodes: int = 1) -> Iterator[Fd]:
    kernel = RestrictedKernel(version=version, quirks=quirks, faults=FaultPlan(), nodes=nodes)
    fd = kernel.memfd_restricted()
    try:
        yield fd
    finally:
        fd.close()


@pytest.fixture
def fd() -> Iterator[Fd]:
    with opened() as fd:
        yield fd


@pytest.fixture
def file(fd: Fd) -> RestrictedFile:
    inode = fd.inode
    assert isinstance(inode, RestrictedFile)
    return inode


def plan_of(file: RestrictedFile) -> FaultPlan:
    return file.world.faults


def test_c01_c02_the_size_is_whole_pages_and_set_once(fd: Fd) -> None:
    with refused("EINVAL", "C01"):
        fd.truncate(PG + 1)
    fd.truncate(PG)
    with refused("EPERM", "C02"):
        fd.truncate(2 * PG)
    with refused("EPERM", "C02"):
        fd.truncate(PG)
    assert fd.stat().size == PG


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        pytest.param(call, errno, id=f"C03-{call}")
        for call, errno in [
            ("read", "EINVAL"),
            ("write", "EINVAL"),
            ("pread", "EINVAL"),
            ("pwrite", "EINVAL"),
            ("mmap", "ENODEV"),
        ]
    ],
)
def test_nothing_can_be_read_written_or_mapped(fd: Fd, call: str, errno: str) -> None:
    def ask() -> None:
        fd.inode.refuse(call)

    with refused(errno, "C03"):
        ask()


def test_c04_allocating_grows_the_file(fd: Fd) -> None:
    fd.truncate(PG)
    fd.fallocate(0, 0, 4 * PG)
    assert fd.stat().size == 4 * PG
    fd.fallocate(KEEP, 4 * PG, PG)
    assert fd.stat().size == 4 * PG
    assert fd.inode.storage.usage.host_bytes == 5 * PG


@pytest.mark.parametrize(
    ("offset", "length"), [(1, PG), (0, PG - 1), (PG, 1)], ids=["C05-offset", "C05-short", "C05-1"]
)
def test_an_unaligned_punch_is_refused(fd: Fd, offset: int, length: int) -> None:
    fd.fallocate(0, 0, 4 * PG)
    with refused("EINVAL", "C05"):
        fd.fallocate(PUNCH, offset, length)
    fd.fallocate(PUNCH, PG, PG)
    assert fd.inode.storage.usage.host_bytes == 3 * PG


def test_c07_pages_land_on_the_nodes_bound_to_them() -> None:
    pattern = [1, 0, 1, 0, 1, 1, 0, 1]
    with opened("mount-rfc", nodes=2) as fd:
        file = fd.inode
        assert isinstance(file, RestrictedFile)
        for index, node in enumerate(pattern):
            file.bind_policy(index * PG, PG, node)
        fd.fallocate(0, 0, len(pattern) * PG)
        assert [file.page(index).node for index in range(len(pattern))] == pattern
        with refused("EINVAL", "C07"):
            file.bind_policy(0, PG, 2)


def test_c08_the_file_has_an_identity_of_its_own() -> None:
    kernel = RestrictedKernel(version="v10")
    one, two = kernel.memfd_restricted(), kernel.memfd_restricted()
    assert one.stat().dev == two.stat().dev == 2
    assert one.stat().ino != two.stat().ino
    one.close()
    two.close()
    with opened(quirks=("inner-identity",)) as posted, opened(quirks=("inner-identity",)) as other:
        assert posted.stat().ino == other.stat().ino


def test_c09_the_shim_leaves_the_size_ordinary() -> None:
    kernel = RestrictedKernel(version="S000")
    kernel.noexec_check = kernel.noexec_check.OFF
    file = RestrictedFile(kernel.world, Storage.memfd("shim"), huge=False)
    file.hold()
    for size in (PG + 1, 3 * PG, PG, PG):
        file.truncate(size)
        assert file.stat().size == size
    with refused("EINVAL", "C03"):
        file.read(0, 1)
    file.drop()


def test_c20_c21_c22_bindings_are_exclusive(file: RestrictedFile) -> None:
    with refused("EINVAL", "C20"):
        file.bind_range(0, 4, Listener(), exclusive=False)
    file.bind_range(0, 4, Listener())
    with refused("EINVAL", "C21"):
        file.bind_range(3, 5, Listener())
    file.exclusive = False
    with refused("EINVAL", "C22"):
        file.bind_range(8, 9, Listener())
    assert len(file.bindings) == 1


def test_c23_cq3_neighbours_collide_only_as_posted(file: RestrictedFile) -> None:
    file.bind_range(0, 4, Listener())
    file.bind_range(4, 8, Listener())
    with opened(quirks=("inclusive-end",)) as posted:
        inode = posted.inode
        assert isinstance(inode, RestrictedFile)
        inode.bind_range(0, 4, Listener())
        with refused("EINVAL", "C21"):
            inode.bind_range(4, 8, Listener())


def test_c24_an_unbound_page_is_a_warning(file: RestrictedFile) -> None:
    file.bind_range(0, 4, Listener())
    with refused("EINVAL", "C24"):
        file.get_page(4)
    assert len(file.world.trace.steps("warn")) == 1


def test_c25_a_bound_page_is_allocated(file: RestrictedFile) -> None:
    file.bind_range(0, 4, Listener())
    page = file.get_page(3)
    assert (page.index, page.order) == (3, 0)
    assert file.storage.usage.host_bytes == PG
    assert file.get_page(3).pfn == page.pfn


def test_c25_the_order_is_that_of_the_huge_page() -> None:
    kernel = RestrictedKernel(version="v10")
    kernel.shmem_huge = True
    fd = kernel.memfd_restricted()
    file = fd.inode
    assert isinstance(file, RestrictedFile)
    file.bind_range(0, 1024, Listener())
    assert file.get_page(3).order == 9
    assert file.storage.usage.host_bytes == M2
    fd.fallocate(PUNCH, 0, PG)
    assert file.get_page(3).order == 0
    fd.close()


def test_c26_a_punch_tells_every_binding_the_whole_range(fd: Fd, file: RestrictedFile) -> None:
    one, two, three = Listener(), Listener(), Listener()
    file.bind_range(0, 4, one)
    file.bind_range(4, 8, two)
    file.bind_range(20, 24, three)
    fd.fallocate(0, 0, 24 * PG)
    fd.fallocate(PUNCH, 2 * PG, 4 * PG)
    assert one.heard == two.heard == [("start", 2, 6), ("end", 2, 6)]
    assert three.heard == []
    assert file.storage.usage.host_bytes == 20 * PG


def test_c26_the_end_is_told_also_when_freeing_fails(file: RestrictedFile) -> None:
    listener = Listener()
    file.bind_range(0, 4, listener)
    file.storage.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.punch(0, 2)
    assert listener.heard == [("start", 0, 2), ("end", 0, 2)]


def test_c27_c28_nobody_comes_or_goes_during_an_invalidation(file: RestrictedFile) -> None:
    listener = Listener()
    binding = file.bind_range(0, 4, listener)
    pages = [file.get_page(0)]

    def meanwhile() -> None:
        pages.append(file.get_page(1))
        with refused("EDEADLK"):
            file.bind_range(8, 9, Listener())
        with refused("EDEADLK", "C28"):
            file.unbind(binding)

    plan_of(file).add(
        PlannedFault(FaultKind.SLOW_INVALIDATE, reason="slow TLB flush", meanwhile=meanwhile)
    )
    assert file.still_valid(pages[0])
    file.punch(0, 2)
    assert len(pages) == 2
    assert not any(map(file.still_valid, pages))
    assert file.still_valid(file.get_page(1))
    assert listener.heard == [("start", 0, 2), ("end", 0, 2)]
    file.unbind(binding)
    with refused("EINVAL", "C24"):
        file.get_page(0)


def test_c27_a_listener_that_fails_cancels_and_leaves_the_balance(file: RestrictedFile) -> None:
    class Failing(Listener):
        @override
        def invalidate_start(self, start: int, end: int) -> None:
            raise ConnectionError("the VM is gone")

    first = Listener()
    file.bind_range(0, 4, first)
    file.bind_range(4, 8, Failing())
    file.fallocate(0, 0, 8 * PG)
    with pytest.raises(ConnectionError):
        file.punch(0, 8)
    assert first.heard == [("start", 0, 8), ("end", 0, 8)]
    assert file.storage.usage.host_bytes == 8 * PG
    assert file.bindings.running == 0


def test_c29_a_bad_page_is_told_to_those_bound_to_it(file: RestrictedFile) -> None:
    one, two = Listener(), Listener()
    file.bind_range(0, 4, one)
    file.bind_range(4, 8, two)
    file.get_page(2)
    file.poison(2)
    assert one.heard == [("error", 2, 3)]
    assert two.heard == []
    steps = [entry.step for entry in file.world.trace.steps("poison", "backing-error", "warn")]
    assert steps == ["poison", "backing-error"]


def test_cq2_as_posted_the_error_path_sleeps_in_atomic_context() -> None:
    with opened(quirks=("error-under-spinlock",)) as fd:
        fd.inode.poison(0)
        (warning,) = fd.inode.world.trace.steps("warn")
        assert "atomic" in warning.reason


def test_c30_migration_warns_once(file: RestrictedFile) -> None:
    for _ in range(3):
        with refused("EINVAL", "C30"):
            file.migrate_folio(0)
    assert len(file.world.trace.steps("warn")) == 1


def test_c31_the_last_close_frees_everything() -> None:
    with opened() as fd:
        file = fd.inode
        assert isinstance(file, RestrictedFile)
        file.bind_range(0, 4, Listener())
        fd.fallocate(0, 0, 4 * PG)
        file.backing_releases = True
        other = fd.dup()
        fd.close()
        assert file.storage.usage.host_bytes == 4 * PG
        other.close()
        assert file.evicted
        assert len(file.bindings) == 0
        assert len(file.world.trace.steps("warn")) == 1


def test_cq4_the_mapping_is_unevictable_and_unmovable(file: RestrictedFile) -> None:
    assert file.unevictable
    assert not file.movable


WRONG_SLOTS = [
    pytest.param(Region(1, 0, PG), 0, id="C32-ordinary file"),
    pytest.param(Region(1, 0, PG, offset=8 * PG + 1), None, id="C32-unaligned offset"),
    pytest.param(Region(1, PG, M2, offset=M2), None, id="C32-gpa less aligned"),
    pytest.param(Region(0, 0x400000, PG, offset=M2), None, id="C32-modify"),
    pytest.param(Region(1, 0x400000, PG, offset=0), None, id="C32-overlapping offset"),
]


@pytest.mark.parametrize(("region", "other"), WRONG_SLOTS)
def test_slots_refuse(fd: Fd, region: Region, other: int | None) -> None:
    vm = PrivateVm(fd.inode.world, VmType.SW_PROTECTED, RestrictedFile)
    vm.set_private_region(Region(0, 0, PG), fd)
    with refused("EINVAL"):
        vm.set_private_region(region, fd if other is None else other)
    assert list(vm.slots) == [0]
    assert len(fd.inode.bindings) == 1
    vm.close()


def test_c32_the_size_of_the_file_is_not_looked_at(fd: Fd) -> None:
    vm = PrivateVm(fd.inode.world, VmType.SW_PROTECTED, RestrictedFile)
    assert fd.stat().size == 0
    vm.set_private_region(Region(0, 0, 4 * PG), fd)
    vm.close()


def test_d51_older_generations_flag_private_in_bit_zero(fd: Fd) -> None:
    vm = PrivateVm(fd.inode.world, VmType.TDX, RestrictedFile)
    shared = Storage.memfd("shared", PG)
    vm.set_private_region(Region(0, 0, PG, 4, Userspace(PG, shared)), fd)
    assert vm.read(0, private=True) == VcpuExit(14, ExitReason.MEMORY_FAULT, 1, 0, PG)
    vm.close()
    shared.close()


def test_c28_a_vm_loses_punched_frames_and_regains_zeros(fd: Fd) -> None:
    vm = PrivateVm(fd.inode.world, VmType.SW_PROTECTED, RestrictedFile)
    vm.set_private_region(Region(0, M2, 4 * PG, 4), fd)
    vm.attributes.set(512, 516, 1)
    assert vm.write(M2 + PG, b"guest") is None
    assert vm.mapped[513] == 2
    fd.fallocate(PUNCH, 0, 4 * PG)
    assert vm.mapped.uniform(0, 1024, 0)
    assert vm.read(M2 + PG, 5) == bytes(5)
    assert vm.invalidations == 0
    vm.close()
