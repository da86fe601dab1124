# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd as a file: creation, file operations, fallocate, lifetime."""

import mmap

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.inode import Process
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.host.mapping import map_file
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.support import KEEP, PG, PUNCH, refused


@pytest.fixture
def vm() -> EmulatedVm:
    return Kvm(Generation.GUEST_MEMFD).create_vm()


@pytest.mark.parametrize(
    "size",
    [0, 1, PG - 1, PG + 1, -1, -PG, 1 << 63],
    ids=lambda size: f"D01-{size:#x}",
)
def test_impossible_sizes_are_refused(vm: EmulatedVm, size: int) -> None:
    with refused("EINVAL", "D01"):
        vm.create_guest_memfd(size)


def test_d01_the_guest_mem_of_july_2023_took_size_zero() -> None:
    fd = Kvm(version="JUL23").create_vm().create_guest_memfd(0)
    assert fd.stat().size == 0
    fd.close()


def test_d02_a_huge_file_costs_nothing(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd((1 << 63) - PG)
    assert fd.stat().size == (1 << 63) - PG
    assert fd.inode.storage.usage.host_bytes == 0
    fd.close()


def test_d03_the_flag_is_looked_at_before_the_size(vm: EmulatedVm) -> None:
    with refused("EINVAL", "D03"):
        vm.create_guest_memfd(0, 4)
    with refused("EINVAL", "D03"):
        vm.create_guest_memfd(PG, 1 << 63)


@pytest.mark.parametrize("flags", [0, 1, 2, 3], ids=lambda flags: f"D04-{flags}")
def test_known_flags_work_alone_and_together(vm: EmulatedVm, flags: int) -> None:
    vm.create_guest_memfd(PG, flags).close()


@pytest.mark.parametrize("argument", [None, b"short"], ids=["D05-null", "D05-short"])
def test_an_unreadable_argument_is_efault(vm: EmulatedVm, argument: bytes | None) -> None:
    with refused("EFAULT", "D05"):
        vm.create_guest_memfd_from(argument)
    vm.create_guest_memfd_from(PG.to_bytes(8, "little") + bytes(8) + b"\xff" * 48).close()


def test_d06_every_call_from_another_address_space_is_eio(vm: EmulatedVm) -> None:
    with vm.world.running_as(Process("child")):
        with refused("EIO", "D06"):
            vm.create_guest_memfd(PG)
        with refused("EIO", "D06"):
            vm.set_attributes(0, PG, 8)
    vm.create_guest_memfd(PG).close()


def test_d07_two_files_share_the_device_only(vm: EmulatedVm) -> None:
    one, two = vm.create_guest_memfd(PG), vm.create_guest_memfd(2 * PG)
    assert one.stat().ino != two.stat().ino
    assert one.stat().dev == two.stat().dev
    assert (one.stat().size, two.stat().size) == (PG, 2 * PG)
    one.close()
    two.close()


def test_d08_d09_d10_descriptor_and_stat(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    fd.fallocate(KEEP, 0, 4 * PG)
    found = fd.stat()
    assert not fd.cloexec
    assert (found.mode, found.nlink, found.size, found.blksize) == (0o100600, 1, 4 * PG, PG)
    assert found.blocks == 0
    inode = fd.inode
    assert isinstance(inode, GuestMemfd)
    assert inode.link_text == "anon_inode:[kvm-gmem]"
    assert inode.statfs() == (0x09041934, PG)
    fd.close()


def ask(fd: Fd, call: str) -> None:
    fd.inode.refuse(call)


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        pytest.param(call, name, id=f"{entry}-{call}")
        for entry, name, calls in [
            ("D11", "EINVAL", "read write readv splice"),
            ("D11", "ESPIPE", "pread pwrite lseek seek-data sendfile posix-fallocate"),
            ("D11", "EXDEV", "copy-file-range"),
            ("D12", "EINVAL", "ftruncate fchmod fchown utimes"),
            ("D13", "EINVAL", "fsync fdatasync get-seals add-seals"),
            ("D14", "ENXIO", "reopen"),
            ("D14", "EPERM", "epoll"),
            ("D14", "ENOTTY", "unknown-ioctl"),
        ]
        for call in calls.split()
    ],
)
def test_file_operations_have_no_handler(vm: EmulatedVm, call: str, errno: str) -> None:
    fd = vm.create_guest_memfd(PG)
    with refused(errno):
        ask(fd, call)
    fd.close()


def test_d12_even_the_same_size_again_is_refused(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(PG)
    with refused("EINVAL", "D12"):
        fd.truncate(PG)
    fd.close()


@pytest.mark.parametrize(
    "mode", [0, 2, 0x10, 0x11, 0x08, 0x20, 0x40, 0x41], ids=lambda mode: f"D20-{mode:#x}"
)
def test_other_fallocate_modes_are_refused(vm: EmulatedVm, mode: int) -> None:
    fd = vm.create_guest_memfd(PG)
    with refused("EOPNOTSUPP", "D20"):
        fd.fallocate(mode, 0, PG)
    fd.close()


def test_d20_d24_modes_nobody_knows_come_before_the_size_and_others_after_it(
    vm: EmulatedVm,
) -> None:
    fd = vm.create_guest_memfd(PG)
    for mode in (2, 0x100, 0x09):
        with refused("EOPNOTSUPP", "D20"):
            fd.fallocate(mode, PG, (1 << 63) - PG)
    for mode in (0, 0x10):
        with refused("EFBIG", "D24"):
            fd.fallocate(mode, PG, (1 << 63) - PG)
    fd.close()


def test_d21_allocation_is_accounted_for(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(20000 * PG)
    fd.fallocate(KEEP, 0, 20000 * PG)
    usage = fd.inode.storage.usage
    assert usage.host_bytes == usage.known_bytes == 80000 << 10
    fd.close()


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(4 * PG, PG, id="D22-at the end"),
        pytest.param(5 * PG, PG, id="D22-after the end"),
        pytest.param(3 * PG, 2 * PG, id="D22-over the end"),
    ],
)
def test_allocating_past_the_size_is_refused(vm: EmulatedVm, offset: int, length: int) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    with refused("EINVAL", "D22"):
        fd.fallocate(KEEP, offset, length)
    assert fd.inode.storage.usage.host_bytes == 0
    fd.close()


@pytest.mark.parametrize("offset", [4 * PG, 9 * PG], ids=["D23-at", "D23-after"])
def test_punching_past_the_size_does_nothing(vm: EmulatedVm, offset: int) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    fd.fallocate(PUNCH, offset, PG)
    assert fd.stat().size == 4 * PG
    fd.close()


@pytest.mark.parametrize(
    ("offset", "length", "errno"),
    [
        pytest.param(0, 0, "EINVAL", id="D24-nothing"),
        pytest.param(-PG, PG, "EINVAL", id="D24-negative offset"),
        pytest.param(0, -PG, "EINVAL", id="D24-negative length"),
        pytest.param(PG, (1 << 63) - PG, "EFBIG", id="D24-huge sum"),
    ],
)
def test_senseless_lengths(vm: EmulatedVm, offset: int, length: int, errno: str) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    with refused(errno, "D24"):
        fd.fallocate(KEEP, offset, length)
    fd.close()


UNALIGNED = [(0, 1), (0, PG - 1), (0, PG + 1)] + [
    (start, length) for start in (1, PG - 1, PG + 1) for length in (1, PG, PG + 1)
]


@pytest.mark.parametrize("mode", [KEEP, PUNCH])
@pytest.mark.parametrize(
    ("offset", "length"), UNALIGNED, ids=[f"D25-{one}-{two}" for one, two in UNALIGNED]
)
def test_unaligned_ranges_are_refused(vm: EmulatedVm, offset: int, length: int, mode: int) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    with refused("EINVAL", "D25"):
        fd.fallocate(mode, offset, length)
    fd.close()


def test_d26_a_hole_filled_again_is_zero(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    fd.fallocate(KEEP, 0, 4 * PG)
    fd.inode.storage.write(PG, b"secret")
    fd.fallocate(PUNCH, PG, PG)
    fd.fallocate(KEEP, PG, PG)
    assert fd.inode.storage.read(PG, 6) == bytes(6)
    fd.close()


def test_d27_a_signal_keeps_what_was_allocated_until_the_file_is_closed() -> None:
    plan = FaultPlan([PlannedFault(FaultKind.PARTIAL, page=19, reason="SIGALRM in between")])
    kvm = Kvm(faults=plan)
    fd = kvm.create_vm().create_guest_memfd(100 * PG)
    with refused("EINTR", "D27"):
        fd.fallocate(KEEP, 0, 100 * PG)
    assert fd.inode.storage.usage.host_bytes == 19 * PG
    assert [entry.reason for entry in kvm.world.trace.steps("fault")] == ["SIGALRM in between"]
    fd.close()
    assert fd.closed


def test_d28_punching_frees_exactly_the_pages(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(10 * PG)
    fd.fallocate(KEEP, 0, 10 * PG)
    fd.fallocate(PUNCH, 2 * PG, 3 * PG)
    assert fd.inode.storage.usage.host_bytes == 7 * PG
    fd.close()


def test_d28_nobody_binds_while_pages_are_taken_away() -> None:
    plan = FaultPlan()
    vm = Kvm(faults=plan).create_vm()
    fd = vm.create_guest_memfd(4 * PG)

    def meanwhile() -> None:
        with refused("EDEADLK"):
            vm.set_region(Region(0, 0, PG, 4), fd)

    plan.add(PlannedFault(FaultKind.SLOW_INVALIDATE, meanwhile=meanwhile))
    fd.fallocate(PUNCH, 0, PG)
    assert not vm.slots
    assert not len(fd.inode.bindings)
    vm.set_region(Region(0, 0, PG, 4), fd)
    vm.close()
    fd.close()


def test_d27_a_failed_allocation_keeps_nothing() -> None:
    kvm = Kvm(faults=FaultPlan([PlannedFault(FaultKind.NO_MEMORY, nth=2)]))
    fd = kvm.create_vm().create_guest_memfd(4 * PG)
    fd.fallocate(KEEP, 0, PG)
    with refused("ENOMEM", "D27"):
        fd.fallocate(KEEP, PG, PG)
    assert fd.inode.storage.usage.host_bytes == PG
    fd.close()


def test_d73_a_mapping_keeps_the_memory_of_a_closed_file(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG, 3)
    mapping = map_file(fd.file, 4 * PG, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
    inode = fd.inode
    mapping.touch(0, b"kept")
    fd.close()
    assert mapping.touch(0, size=4) == b"kept"
    freed = [inode.evicted]
    mapping.close()
    assert [*freed, inode.evicted] == [False, True]
    with pytest.raises(OSError, match="Bad file descriptor"):
        fd.stat()


def test_d75_the_module_stays_while_a_file_exists(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG)
    other = fd.dup()
    vm.close()
    fd.close()
    counts = [vm.world.files]
    other.close()
    assert [*counts, vm.world.files] == [1, 0]
