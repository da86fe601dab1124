# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd and memslots: the order of checks, attributes, what closing does."""

import os
from collections.abc import Iterator

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.inode import Process
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import NOWHERE, Region, Userspace
from tests.unit.generations.support import KEEP, PG, PUNCH, refused


GMEM, READONLY, LOG = 4, 2, 1
FAR = 0x100000


@pytest.fixture
def vm() -> EmulatedVm:
    return Kvm().create_vm()


@pytest.fixture
def fd(vm: EmulatedVm) -> Iterator[Fd]:
    fd = vm.create_guest_memfd(4 * PG)
    vm.set_region(Region(0, FAR, PG, GMEM), fd)
    yield fd
    vm.close()
    fd.close()


def region(**changes: object) -> Region:
    arguments: dict[str, object] = {"slot": 1, "gpa": 0, "size": PG, "flags": GMEM, "offset": PG}
    return Region(**(arguments | changes))  # type: ignore[arg-type]


BROKEN = {
    "D31-unknown flag": (region(flags=GMEM | 8), "EINVAL"),
    "D31-read-only": (region(flags=GMEM | READONLY), "EINVAL"),
    "D31-logged": (region(flags=GMEM | LOG), "EINVAL"),
    "D32-size": (region(size=PG + 1), "EINVAL"),
    "D32-gpa": (region(gpa=1), "EINVAL"),
    "D32-address": (region(userspace=Userspace(1)), "EINVAL"),
    "D33-offset": (region(offset=1), "EINVAL"),
    "D33-wrap": (region(offset=(1 << 64) - PG), "EINVAL"),
    "D34-slot": (region(slot=40000), "EINVAL"),
    "D35-gpa wrap": (region(gpa=(1 << 64) - PG), "EINVAL"),
    "D35-too big": (region(size=PG << 31), "EINVAL"),
    "D36-absent": (region(size=0), "EINVAL"),
    "D37-identical": (region(slot=0, gpa=FAR, offset=0), "EINVAL"),
    "D37-plain instead": (region(slot=0, gpa=FAR, flags=0), "EINVAL"),
    "D38-overlap": (region(gpa=FAR), "EEXIST"),
    "D39-beyond the size": (region(offset=4 * PG), "EINVAL"),
    "D39-over the size": (region(offset=3 * PG, size=2 * PG), "EINVAL"),
    "D39-bound": (region(offset=0), "EINVAL"),
    "D39-sign": (region(offset=(1 << 63) - PG), "EINVAL"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_slot_is_refused_and_nothing_changes(vm: EmulatedVm, fd: Fd, case: str) -> None:
    wrong, errno = BROKEN[case]
    with refused(errno, case[:3]):
        vm.set_region(wrong, fd)
    assert list(vm.slots) == [0]
    assert len(fd.inode.bindings) == 1


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param({"flags": GMEM | 8}, {"gpa": 1}, id="D31-D32"),
        pytest.param({"gpa": 1}, {"offset": 1}, id="D32-D33"),
        pytest.param({"offset": 1}, {"slot": 40000}, id="D33-D34"),
        pytest.param({"slot": 40000}, {"gpa": (1 << 64) - PG}, id="D34-D35"),
        pytest.param({"slot": 0}, {"gpa": FAR + PG, "offset": 4 * PG}, id="D37-D39"),
        pytest.param({"gpa": FAR}, {"offset": 4 * PG}, id="D38-D39"),
    ],
)
def test_the_earlier_check_wins(
    vm: EmulatedVm, fd: Fd, earlier: dict[str, object], later: dict[str, object]
) -> None:
    with pytest.raises(OSError, match=r"rule") as alone:
        vm.set_region(region(**earlier), fd)
    with pytest.raises(OSError, match=r"rule") as both:
        vm.set_region(region(**(later | earlier)), fd)
    assert str(both.value) == str(alone.value)


def test_d39_the_descriptor_is_looked_at_last(vm: EmulatedVm, fd: Fd) -> None:
    with refused("EEXIST", "D38"):
        vm.set_region(region(gpa=FAR), -1)
    with refused("EBADF", "D39"):
        vm.set_region(region(), -1)
    closed = fd.dup()
    closed.close()
    with refused("EBADF", "D39"):
        vm.set_region(region(), closed)
    ordinary = os.memfd_create("ordinary")
    with refused("EINVAL", "D39", rule="not-gmem"):
        vm.set_region(region(), ordinary)
    os.close(ordinary)
    foreign = vm.kvm.create_vm().create_guest_memfd(4 * PG)
    with refused("EINVAL", "D39"):
        vm.set_region(region(), foreign)
    foreign.close()


def test_d31_the_old_ioctl_has_no_room_for_a_file(vm: EmulatedVm, fd: Fd) -> None:
    with refused("EINVAL", "D31"):
        vm.set_region(region(), fd, old=True)
    vm.set_region(region(flags=0, offset=0), old=True)


def test_d37_a_plain_slot_keeps_its_size_and_address(vm: EmulatedVm) -> None:
    vm.set_region(Region(1, 0, 2 * PG))
    for changed in (
        Region(1, 0, PG),
        Region(1, 0, 2 * PG, 2),
        Region(1, 0, 2 * PG, 0, Userspace(PG)),
    ):
        with refused("EINVAL", "D37", rule="modify-size"):
            vm.set_region(changed)
    vm.set_region(Region(1, 0x10000, 2 * PG))
    assert vm.slots[1].region.gpa == 0x10000


def test_d36_deleting_ignores_the_other_arguments(vm: EmulatedVm, fd: Fd) -> None:
    vm.set_region(Region(0, 0, 0, GMEM, offset=1 << 40), -1)
    assert not vm.slots
    assert not len(fd.inode.bindings)
    vm.set_region(Region(5, FAR, PG, GMEM), fd)


def test_d39_freed_offsets_can_be_bound_at_once_and_a_copy_shares_bindings(
    vm: EmulatedVm, fd: Fd
) -> None:
    copy = fd.dup()
    with refused("EINVAL", "D39"):
        vm.set_region(region(offset=0), copy)
    vm.set_region(Region(0, 0, 0), -1)
    vm.set_region(region(offset=0), copy)
    copy.close()


def test_d39_newer_kernels_say_eexist_for_a_bound_range() -> None:
    vm = Kvm(Generation.MAPPABLE_GUEST_MEMFD, version="JUL26").create_vm()
    fd = vm.create_guest_memfd(4 * PG)
    vm.set_region(Region(0, FAR, PG, GMEM), fd)
    with refused("EEXIST", "D39"):
        vm.set_region(region(offset=0), fd)
    vm.close()
    fd.close()


def test_d39_the_signed_sum_is_a_quirk_of_6_18() -> None:
    vm = Kvm(quirks=["offset-wraps-signed"]).create_vm()
    fd = vm.create_guest_memfd(4 * PG)
    vm.set_region(region(offset=(1 << 63) - PG), fd)
    assert 1 in vm.slots
    vm.close()
    fd.close()


def test_d40_a_failure_of_the_architecture_leaves_nothing_bound() -> None:
    plan = FaultPlan([PlannedFault(FaultKind.ARCH_PREPARE, nth=2)])
    vm = Kvm(faults=plan).create_vm()
    fd = vm.create_guest_memfd(4 * PG)
    vm.set_region(Region(0, FAR, PG, GMEM), fd)
    with refused("ENOMEM", "D40"):
        vm.set_region(region(), fd)
    assert list(vm.slots) == [0]
    assert len(fd.inode.bindings) == 1
    vm.close()
    fd.close()


def test_d32_an_address_of_null_is_fine(vm: EmulatedVm, fd: Fd) -> None:
    vm.set_region(region(userspace=NOWHERE), fd)


def test_d06_slots_are_for_the_own_process(vm: EmulatedVm, fd: Fd) -> None:
    with vm.world.running_as(Process("child")), refused("EIO", "D06"):
        vm.set_region(region(), fd)


@pytest.mark.parametrize(
    ("gpa", "size", "attributes", "flags", "entry"),
    [
        pytest.param(0, PG, 8, 1, "D41", id="D41"),
        pytest.param(0, PG, 1, 0, "D42", id="D42"),
        pytest.param(0, 0, 8, 0, "D43", id="D43-empty"),
        pytest.param((1 << 64) - PG, 2 * PG, 8, 0, "D43", id="D43-wrap"),
        pytest.param(1, PG, 8, 0, "D44", id="D44-address"),
        pytest.param(0, PG + 1, 8, 0, "D44", id="D44-size"),
    ],
)
def test_wrong_attributes_are_refused(
    gpa: int, size: int, attributes: int, flags: int, entry: str
) -> None:
    vm = Kvm().create_vm(VmType.SW_PROTECTED)
    with refused("EINVAL", entry):
        vm.set_attributes(gpa, size, attributes, flags)
    assert vm.attributes.uniform(0, 1 << 52, 0)


def test_d45_attributes_are_stored_whole_or_not_at_all() -> None:
    vm = Kvm(faults=FaultPlan([PlannedFault(FaultKind.NO_MEMORY)])).create_vm(VmType.SW_PROTECTED)
    with refused("ENOMEM", "D45"):
        vm.set_attributes(0, 8 * PG, 8)
    assert vm.attributes.uniform(0, 8, 0)
    vm.set_attributes(0, 8 * PG, 8)
    assert vm.attributes.uniform(0, 8, 1)
    zaps = len(vm.world.trace.steps("zap"))
    vm.set_attributes(2 * PG, PG, 8)
    assert len(vm.world.trace.steps("zap")) == zaps
    vm.set_region(Region(0, 0, 8 * PG, 0))
    vm.set_region(Region(0, 0, 0))
    assert vm.attributes.uniform(0, 8, 1)


def test_d46_a_vm_without_private_memory_keeps_no_attributes(vm: EmulatedVm) -> None:
    with refused("ENOTTY", "D46"):
        vm.set_attributes(0, PG, 8)


def test_d70_closing_a_bound_file_takes_its_memory(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG, 1)
    vm.set_region(Region(0, 0, 4 * PG, GMEM), fd)
    vm.write(0, b"\x77")
    inode = fd.inode
    assert vm.mapped[0]
    fd.close()
    assert inode.evicted
    assert vm.mapped.uniform(0, 4, 0)
    with refused("EINVAL", "D37"):
        vm.set_region(Region(0, 0, 4 * PG, GMEM), -1)
    vm.set_region(Region(0, 0, 0), -1)


def test_d71_contents_wait_for_the_next_binding(vm: EmulatedVm) -> None:
    fd = vm.create_guest_memfd(4 * PG, 1)
    vm.set_region(Region(0, 0, PG, GMEM, offset=PG), fd)
    vm.write(0, b"\x77")
    vm.set_region(Region(0, 0, 0), -1)
    vm.set_region(Region(3, 0x8000, PG, GMEM, offset=PG), fd)
    assert vm.read(0x8000, 1) == b"\x77"
    vm.close()
    fd.close()


def test_d72_the_file_outlives_its_vm_and_serves_no_other(vm: EmulatedVm, fd: Fd) -> None:
    vm.close()
    fd.fallocate(KEEP, 0, 2 * PG)
    fd.fallocate(PUNCH, 0, PG)
    assert fd.inode.storage.usage.host_bytes == PG
    with refused("EINVAL", "D39"):
        vm.kvm.create_vm().set_region(region(), fd)


def test_d74_the_receiver_of_a_descriptor_sees_the_same_file(vm: EmulatedVm, fd: Fd) -> None:
    received = fd.dup()
    receiver = vm.kvm.create_vm()
    with vm.world.running_as(Process("receiver")):
        received.fallocate(KEEP, 0, 2 * PG)
        received.fallocate(PUNCH, 0, PG)
    assert not fd.inode.storage.has(0)
    assert fd.inode.storage.has(1)
    with refused("EINVAL", "D39"):
        receiver.set_region(region(), received)
    received.close()
