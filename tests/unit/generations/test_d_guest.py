# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest of a guest_memfd sees, and the exits it takes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.vms.exits import ExitReason, Path, VcpuExit, VmType
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import Region, Userspace
from tests.unit.generations.support import M2, PG, PUNCH, refused


if TYPE_CHECKING:
    from cvmlab.generations.files.open_file import Fd


GMEM = 4
EFAULT, EHWPOISON, EIO = 14, 133, 5
PAGES = 1024


class Guest:
    """A VM with one slot at GPA 0, its file and its shared half."""

    def __init__(self, kind: VmType, flags: int = 0, faults: FaultPlan | None = None) -> None:
        self.kvm = Kvm(faults=faults)
        self.vm: EmulatedVm = self.kvm.create_vm(kind)
        self.fd: Fd = self.vm.create_guest_memfd(PAGES * PG, flags)
        self.shared = Storage.memfd("shared half", PAGES * PG)
        self.region = Region(0, 0, PAGES * PG, GMEM, Userspace(1 << 20, self.shared))
        self.vm.set_region(self.region, self.fd)

    def close(self) -> None:
        self.vm.close()
        self.fd.close()
        self.shared.close()


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    kind, flags = getattr(request, "param", (VmType.SW_PROTECTED, 0))
    made = Guest(kind, flags)
    yield made
    made.close()


def fault(flags: int, gpa: int, errno: int = EFAULT, *, write: bool = False) -> VcpuExit:
    return VcpuExit(errno, ExitReason.MEMORY_FAULT, flags, gpa, PG, write)


def test_d50_d53_a_private_frame_without_its_slot_is_a_memory_fault(guest: Guest) -> None:
    guest.vm.set_attributes(PG, PG, 8)
    assert guest.vm.read(PG + 8) == bytes(8)
    guest.vm.set_region(Region(0, 0, 0))
    found = guest.vm.read(PG + 8)
    assert found == fault(8, PG)
    assert isinstance(found, VcpuExit)
    assert found.errno in (EFAULT, EHWPOISON)


def test_d54_a_private_frame_of_a_plain_slot_is_a_memory_fault(guest: Guest) -> None:
    guest.vm.set_region(Region(1, 1 << 30, PG, 0, Userspace(PG, guest.shared)))
    guest.vm.set_attributes(1 << 30, PG, 8)
    assert guest.vm.write((1 << 30) + 4, b"1") == fault(8, 1 << 30, write=True)


@pytest.mark.parametrize("guest", [(VmType.TDX, 0), (VmType.SNP, 0)], indirect=True, ids=str)
def test_d55_the_exit_tells_the_kind_of_the_access(guest: Guest) -> None:
    assert guest.vm.read(0, private=True) == fault(8, 0)
    guest.vm.set_attributes(0, PG, 8)
    assert guest.vm.read(0, private=False) == fault(0, 0)
    assert guest.vm.read(0, private=True) == bytes(8)


def test_d55_a_software_protected_vm_never_mismatches(guest: Guest) -> None:
    assert guest.vm.read(0, private=True) == bytes(8)
    guest.vm.set_attributes(0, PG, 8)
    assert guest.vm.read(0, private=False) == bytes(8)


def test_d51_d52_flags_address_and_size_of_a_memory_fault(guest: Guest) -> None:
    guest.vm.set_attributes(1 << 30, PG, 8)
    found = guest.vm.read((1 << 30) + 0x123)
    assert found == VcpuExit(EFAULT, ExitReason.MEMORY_FAULT, 1 << 3, 1 << 30, PG)


@pytest.mark.parametrize("guest", [(VmType.DEFAULT, 1)], indirect=True, ids=["D56-mappable"])
def test_a_file_closed_under_its_slot_and_the_way_back(guest: Guest) -> None:
    guest.vm.write(0, b"\x77")
    copy = guest.fd.dup()
    guest.fd.close()
    assert guest.vm.read(0, 1) == b"\x77"
    copy.close()
    assert guest.vm.read(PG + 5, 1) == fault(0, PG)
    guest.fd = guest.vm.create_guest_memfd(PAGES * PG, 1)
    with refused("EINVAL", "D37"):
        guest.vm.set_region(guest.region, guest.fd)
    guest.vm.set_region(Region(0, 0, 0))
    guest.vm.set_region(guest.region, guest.fd)
    assert guest.vm.read(0, 1) == b"\0"


def test_d56_a_private_access_to_a_closed_file_says_private(guest: Guest) -> None:
    guest.vm.set_attributes(0, PG, 8)
    guest.fd.close()
    assert guest.vm.read(0) == fault(8, 0)


def test_d56_poisoned_is_ehwpoison_and_no_memory_is_enomem() -> None:
    plan = FaultPlan()
    guest = Guest(VmType.DEFAULT, 1, plan)
    plan.add(PlannedFault(FaultKind.POISONED, reason="uncorrectable"))
    assert guest.vm.read(0) == fault(0, 0, EHWPOISON)
    plan.add(PlannedFault(FaultKind.NO_MEMORY))
    assert guest.vm.read(PG) == VcpuExit(12, ExitReason.NONE)
    assert guest.vm.read(PG) == bytes(8)
    assert "uncorrectable" in [entry.reason for entry in guest.kvm.world.trace]
    guest.close()


@pytest.mark.parametrize(
    ("userspace", "write"),
    [
        pytest.param(Userspace(0), False, id="D56a-unmapped"),
        pytest.param(Userspace(PG, None), True, id="D56a-unmapped write"),
        pytest.param("read-only", True, id="D56a-read-only"),
    ],
)
def test_plain_memory_out_of_reach_gives_no_address(
    guest: Guest, userspace: Userspace | str, *, write: bool
) -> None:
    if isinstance(userspace, str):
        userspace = Userspace(PG, guest.shared, writable=False)
        guest.vm.set_region(Region(1, 1 << 30, PG, 0, userspace))
        assert guest.vm.read(1 << 30, 1) == b"\0"
    else:
        guest.vm.set_region(Region(1, 1 << 30, PG, 0, userspace))
    found = guest.vm.write(1 << 30, b"1") if write else guest.vm.read(1 << 30)
    assert found == VcpuExit(EFAULT, ExitReason.NONE)


def test_d56b_no_slot_and_read_only_slots_are_mmio(guest: Guest) -> None:
    assert guest.vm.read(1 << 40, 4) == VcpuExit(0, ExitReason.MMIO, 0, 1 << 40, 4)
    guest.vm.set_region(Region(1, 1 << 30, PG, 2, Userspace(PG, guest.shared)))
    assert guest.vm.write((1 << 30) + 8, b"ab") == VcpuExit(
        0, ExitReason.MMIO, 0, (1 << 30) + 8, 2, is_write=True
    )


@pytest.mark.parametrize(
    ("guest", "from_file"),
    [
        pytest.param((VmType.DEFAULT, flags), bool(flags & 1), id=f"D56c-flags {flags}")
        for flags in range(4)
    ],
    indirect=["guest"],
)
def test_the_mmap_flag_decides_what_a_plain_guest_sees(guest: Guest, *, from_file: bool) -> None:
    guest.shared.write(0, b"address")
    guest.fd.inode.storage.write(0, b"gmemfd.")
    assert guest.vm.read(0, 7) == (b"gmemfd." if from_file else b"address")


@pytest.mark.parametrize("guest", [(VmType.DEFAULT, 1)], indirect=True, ids=["D56c"])
def test_the_offset_counts_and_the_address_may_be_null(guest: Guest) -> None:
    guest.vm.set_region(Region(0, 0, 0))
    guest.fd.inode.storage.write(3 * PG, b"third")
    guest.vm.set_region(Region(0, 0, PG, GMEM, offset=3 * PG), guest.fd)
    assert guest.vm.read(0, 5) == b"third"


@pytest.mark.parametrize("guest", [(VmType.DEFAULT, 1)], indirect=True, ids=["D56d"])
def test_the_instruction_emulator_sees_the_address(guest: Guest) -> None:
    guest.shared.write(0, b"address")
    guest.vm.write(0, b"gmemfd.")
    assert guest.vm.read(0, 7, path=Path.EMULATOR) == b"address"
    assert guest.vm.lint() == [0]
    guest.fd.fallocate(PUNCH, 0, PG)
    assert guest.vm.read(0, 7, path=Path.EMULATOR) == b"address"
    guest.vm.set_region(Region(0, 0, 0))
    inode = guest.fd.inode
    alias = Userspace(PG, inode.storage, alias_of=inode)
    guest.vm.set_region(Region(0, 0, PG, GMEM, alias), guest.fd)
    assert guest.vm.lint() == []
    guest.vm.set_region(Region(1, 1 << 30, PG, GMEM, offset=PG), guest.fd)
    found = guest.vm.read(1 << 30, 4, path=Path.EMULATOR)
    assert isinstance(found, VcpuExit)
    assert found.reason is ExitReason.MMIO


def test_d28_d57_a_private_page_is_zero_at_first_and_after_a_punch(guest: Guest) -> None:
    guest.vm.set_attributes(0, 2 * PG, 8)
    assert guest.vm.read(0, 4) == bytes(4)
    for round_number in range(1, 50):
        guest.vm.write(0, bytes([round_number]))
        assert guest.vm.mapped[0] == 2
        guest.fd.fallocate(PUNCH, 0, PG)
        assert guest.vm.mapped[0] == 0
        assert guest.vm.read(0, 1) == b"\0"
    assert guest.vm.is_private(0)


@pytest.mark.parametrize(
    ("start", "size"),
    [
        pytest.param(start, size, id=f"D58-{start:#x}-{size:#x}")
        for start, size in [(0, PG), (0, M2), (PG, PG), (PG, M2), (M2, PG)]
    ],
)
def test_each_side_keeps_its_own_bytes(guest: Guest, start: int, size: int) -> None:
    for gpa in range(start, start + size, PG):
        guest.vm.write(gpa, b"\xaa" * 8)
    guest.vm.set_attributes(start, size, 8)
    assert guest.vm.read(start) == bytes(8)
    for gpa in range(start, start + size, 2 * PG):
        guest.vm.write(gpa, b"\x11" * 8)
    assert guest.shared.read(start, 8) == b"\xaa" * 8
    assert guest.vm.read(start) == b"\x11" * 8
    guest.vm.set_attributes(start, size, 0)
    assert guest.vm.read(start) == b"\xaa" * 8
    guest.fd.fallocate(PUNCH, start, size)
    guest.vm.set_attributes(start, size, 8)
    assert guest.vm.read(start) == bytes(8)


@pytest.mark.parametrize(
    ("gpa", "size", "errno"),
    [
        pytest.param(1, PG, "EINVAL", id="D59-unaligned"),
        pytest.param(0, 0, "EINVAL", id="D59-empty"),
        pytest.param((1 << 64) - PG, 2 * PG, "EINVAL", id="D59-wrap"),
        pytest.param(1 << 40, PG, "ENOENT", id="D59-no slot"),
    ],
)
def test_mapping_ahead_refuses(guest: Guest, gpa: int, size: int, errno: str) -> None:
    with refused(errno, "D59"):
        guest.vm.pre_fault(gpa, size)


def test_d59_mapping_ahead_says_what_is_left(guest: Guest) -> None:
    assert guest.vm.pre_fault(0, M2) == (M2, 0)
    assert guest.vm.mapped.count(0, PAGES, 1) == 0  # plain memory is not tracked
    guest.vm.set_attributes(0, M2, 8)
    assert guest.vm.pre_fault(0, M2) == (M2, 0)
    assert guest.vm.mapped.uniform(0, 512, 2)
    end = PAGES * PG
    assert guest.vm.pre_fault(end - PG, 2 * PG) == (end, PG)
    with refused("ENOENT", "D59"):
        guest.vm.pre_fault(end, PG)


def test_d59_signals_faults_and_unsupported_vms() -> None:
    plan = FaultPlan()
    guest = Guest(VmType.SW_PROTECTED, 0, plan)
    plan.add(PlannedFault(FaultKind.PARTIAL))
    with refused("EINTR", "D59"):
        guest.vm.pre_fault(0, PG)
    guest.vm.set_region(Region(1, 1 << 30, PG, 0))
    with refused("EFAULT", "D59"):
        guest.vm.pre_fault(1 << 30, PG)
    guest.close()
    snp = Guest(VmType.SNP)
    with refused("EOPNOTSUPP", "D59"):
        snp.vm.pre_fault(0, PG)
    snp.close()


def test_d60_the_vmm_must_answer_the_conversion_hypercall(guest: Guest) -> None:
    call = guest.vm.hypercall_map_range(PG, 2, 1 << 4)
    assert (call.gpa, call.pages, call.to_private) == (PG, 2, True)
    with refused("EINVAL", "D60"):
        guest.vm.resume(call)
    call.ret = 0
    assert guest.vm.resume(call) == 0


@pytest.mark.parametrize("guest", [(VmType.SNP, 0)], indirect=True, ids=["D61"])
def test_placing_launch_memory(guest: Guest) -> None:
    with refused("EINVAL", "D61"):
        guest.vm.populate(0, bytes(PG))
    guest.vm.set_attributes(0, 2 * PG, 8)
    with refused("EINVAL", "D61"):
        guest.vm.populate(0, bytes(PG), source_address=1)
    guest.vm.set_attributes(1 << 40, PG, 8)
    with refused("EINVAL", "D61", rule="no-gmem"):
        guest.vm.populate(1 << 40, bytes(PG))
    assert guest.vm.populate(0, b"\x5a" * 3 * PG) == 2
    assert guest.vm.read(PG, private=True) == b"\x5a" * 8
