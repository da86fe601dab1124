# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversion in place on the guest_memfd itself, by the rules of mid-2026 and of the RFCs."""

import errno
from collections.abc import Iterator

import pytest

from cvmlab.generations.conversion import ConvertRequest, Unspecified, convert
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd
from cvmlab.generations.files.pins import Hold
from cvmlab.generations.host.host_view import supported
from cvmlab.generations.host.mapping import BusError, HostMapping
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.exits import ExitReason, VcpuExit, VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.support import KEEP, PG, PUNCH, refused


NO_VIEW = supported()
PAGES = 8
TO_PRIVATE, TO_SHARED = 8, 0


class InPlace:
    """A mappable file of eight pages, bound at GPA 0 of a software-protected VM, and mapped."""

    def __init__(
        self, version: str = "JUL26", flags: int = 3, kind: VmType = VmType.SW_PROTECTED
    ) -> None:
        self.plan = FaultPlan()
        kvm = Kvm(Generation.MAPPABLE_GUEST_MEMFD, version=version, faults=self.plan)
        self.world = kvm.world
        self.vm = kvm.create_vm(kind)
        self.fd = self.vm.create_guest_memfd(PAGES * PG, flags)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.inode: GuestMemfd = inode
        self.vm.set_region(Region(0, 0, PAGES * PG, 4), self.fd)
        self.mapping = HostMapping(self.fd.file, PAGES * PG)

    def to(self, attributes: int, page: int = 0, pages: int = PAGES) -> None:
        convert(self.inode, ConvertRequest(page * PG, pages * PG, attributes))

    @property
    def states(self) -> list[int]:
        return [self.inode.private[index] for index in range(PAGES)]

    def close(self) -> None:
        self.mapping.close()
        self.vm.close()
        self.fd.close()


@pytest.fixture
def file() -> Iterator[InPlace]:
    made = InPlace()
    yield made
    made.close()


WRONG = {
    "F20-pointer": (None, "EFAULT"),
    "F21-flags": (ConvertRequest(0, PG, 8, flags=1), "EINVAL"),
    "F21-reserved": (ConvertRequest(0, PG, 8, reserved=1), "EINVAL"),
    "F21-attribute": (ConvertRequest(0, PG, 4), "EINVAL"),
    "F21-empty": (ConvertRequest(0, 0, 8), "EINVAL"),
    "F21-wrap": (ConvertRequest((1 << 64) - PG, PG, 8), "EINVAL"),
    "F21-unaligned offset": (ConvertRequest(1, PG, 8), "EINVAL"),
    "F21-unaligned size": (ConvertRequest(0, PG + 1, 8), "EINVAL"),
    "F21-at the end": (ConvertRequest(PAGES * PG, PG, 8), "EINVAL"),
    "F21-over the end": (ConvertRequest(PG, PAGES * PG, 8), "EINVAL"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_change_nothing(file: InPlace, case: str) -> None:
    wanted, errno_name = WRONG[case]
    with refused(errno_name, case[:3]):
        convert(file.inode, wanted)
    assert file.states == [SHARED] * PAGES


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        pytest.param(ConvertRequest(1, 0, 4, 1, 1), "flags-unknown", id="F21-1"),
        pytest.param(ConvertRequest(1, 0, 4, 0, 1), "reserved", id="F21-2"),
        pytest.param(ConvertRequest(1, 0, 4), "attribute", id="F21-3"),
        pytest.param(ConvertRequest(1, 0, 8), "empty", id="F21-4"),
        pytest.param(ConvertRequest(1, PAGES * PG, 8), "unaligned", id="F21-5"),
    ],
)
def test_checks_come_in_order(file: InPlace, wrong: ConvertRequest, rule: str) -> None:
    with pytest.raises(OSError, match=f"rule {rule},"):
        convert(file.inode, wrong)


def test_f21_a_vm_without_private_memory_cannot_convert() -> None:
    made = InPlace(kind=VmType.DEFAULT)
    with refused("EINVAL", "F21"):
        made.to(TO_PRIVATE)
    made.close()


def test_f22_an_equal_range_is_left_alone_and_needs_no_memory(file: InPlace) -> None:
    file.plan.add(PlannedFault(FaultKind.NO_MEMORY))
    file.to(TO_SHARED)
    assert not file.world.trace.steps("invalidate")
    with refused("ENOMEM", "F22", error_offset=2 * PG):
        file.to(TO_PRIVATE, 2, 2)
    assert file.states == [SHARED] * PAGES


@pytest.mark.parametrize("page", range(4), ids=lambda page: f"F23-F26-F36-page {page}")
def test_a_held_page_refuses_and_tells_its_offset(file: InPlace, page: int) -> None:
    file.mapping.touch(0, bytes(range(64)))
    pin = file.mapping.pin(page * PG, PG, "vmsplice", Hold.IO)
    with refused("EAGAIN", "F23", error_offset=page * PG):
        file.to(TO_PRIVATE, 0, 4)
    assert file.states == [SHARED] * PAGES
    for index in range(4):
        if index == page:
            with refused("EAGAIN", "F23", error_offset=index * PG):
                file.to(TO_PRIVATE, index, 1)
        else:
            file.to(TO_PRIVATE, index, 1)
    file.inode.pins.unpin(pin)
    file.to(TO_PRIVATE, 0, 4)
    assert file.states[:4] == [PRIVATE] * 4


def test_f23_a_hold_from_before_the_range_is_told_as_its_beginning(file: InPlace) -> None:
    file.mapping.pin(0, 4 * PG, "iommu", Hold.LONG_TERM)
    with refused("EAGAIN", "F23", error_offset=2 * PG):
        file.to(TO_PRIVATE, 2, 4)
    assert [entry.reason for entry in file.world.trace.steps("held")] == ["iommu, long-term"]


def test_f23_to_shared_is_not_held_up_by_pins() -> None:
    made = InPlace(flags=1)
    made.inode.pins.pin(0, 1, "stale", Hold.TRANSIENT)
    made.to(TO_SHARED)
    assert made.states == [SHARED] * PAGES
    made.close()


@pytest.mark.skipif(NO_VIEW is not None, reason=str(NO_VIEW))
def test_f24_f35_f38_the_real_mapping_follows(file: InPlace) -> None:
    view = file.mapping.expose()
    view.write(PG, b"host")
    file.to(TO_PRIVATE, 1, 1)
    with pytest.raises(OSError, match="Bad address") as caught:
        view.read(PG, 4)
    assert caught.value.errno == errno.EFAULT
    assert file.vm.read(PG, 4) == b"host"
    pin = file.inode.pins.pin(2, 3, "someone", Hold.IO)
    with refused("EAGAIN", "F23"):
        file.to(TO_PRIVATE, 2, 2)
    assert view.read(2 * PG, 1) == b"\0"
    file.inode.pins.unpin(pin)
    file.to(TO_SHARED, 1, 1)
    assert view.read(PG, 4) == b"host"


def test_f25_the_guest_loses_the_old_kind_of_mapping_only(file: InPlace) -> None:
    file.to(TO_PRIVATE, 0, 2)
    for page in range(4):
        file.vm.write(page * PG, b"x")
    assert [file.vm.mapped[frame] for frame in range(4)] == [2, 2, 1, 1]
    file.to(TO_PRIVATE, 0, 4)
    assert [file.vm.mapped[frame] for frame in range(4)] == [2, 2, 0, 0]


def test_f26_rfc_versions_want_a_zero_error_offset(file: InPlace) -> None:
    convert(file.inode, ConvertRequest(0, PG, 8, error_offset=77))
    rfc = InPlace("RFC7")
    with refused("EINVAL", "F21"):
        convert(rfc.inode, ConvertRequest(0, PG, 8, error_offset=77))
    rfc.close()


def test_f27_equal_neighbours_are_one_run(file: InPlace) -> None:
    for page in (0, 2, 1):
        file.to(TO_PRIVATE, page, 1)
    assert [tuple(run) for run in file.inode.private.runs(0, PAGES)] == [(0, 3, 1), (3, 8, 0)]


@pytest.mark.parametrize("flags", [1, 3], ids=["F30-init private", "F30-init shared"])
def test_contents_stay_both_ways(flags: int) -> None:
    made = InPlace(flags=flags)
    assert made.states == [SHARED if flags & 2 else PRIVATE] * PAGES
    if not flags & 2:
        assert made.mapping.touch(0) == BusError(0)
        made.to(TO_SHARED)
    made.mapping.touch(0, b"A")
    made.to(TO_PRIVATE)
    assert made.mapping.touch(0) == BusError(0)
    assert made.vm.read(0, 1) == b"A"
    made.vm.write(0, b"B")
    made.to(TO_SHARED)
    assert made.mapping.touch(0) == b"B"
    made.mapping.touch(0, b"C")
    made.to(TO_PRIVATE)
    assert made.vm.read(0, 1) == b"C"
    made.close()


@pytest.mark.parametrize("page", range(4), ids=lambda page: f"F31-page {page}")
def test_only_the_chosen_page_changes(file: InPlace, page: int) -> None:
    file.to(TO_PRIVATE, page, 1)
    assert file.states == [PRIVATE if index == page else SHARED for index in range(PAGES)]


@pytest.mark.parametrize("flags", [1, 3], ids=["F32-private", "F32-shared"])
def test_a_conversion_without_pages_is_remembered(flags: int) -> None:
    made = InPlace(flags=flags)
    made.to(TO_SHARED if flags == 1 else TO_PRIVATE, 0, 1)
    assert made.inode.storage.usage.host_bytes == 0
    assert made.states[0] == (SHARED if flags == 1 else PRIVATE)
    made.close()


def test_f33_holes_convert_and_read_as_zero(file: InPlace) -> None:
    for page in range(0, PAGES, 2):
        file.mapping.touch(page * PG, b"x")
    file.to(TO_PRIVATE)
    assert file.inode.storage.usage.host_bytes == 4 * PG
    assert [file.vm.read(page * PG, 1) for page in range(4)] == [b"x", b"\0", b"x", b"\0"]


def test_f34_punching_keeps_the_attribute(file: InPlace) -> None:
    file.to(TO_PRIVATE, 0, 2)
    file.fd.fallocate(KEEP, 0, 4 * PG)
    file.inode.storage.write(0, b"old")
    file.fd.fallocate(PUNCH, 0, 4 * PG)
    assert file.states[:4] == [PRIVATE, PRIVATE, SHARED, SHARED]
    assert file.vm.read(0, 3) == bytes(3)


def test_f37_a_fault_in_flight_holds_its_page(file: InPlace) -> None:
    in_flight = file.inode.pins.pin(5, 6, "vCPU 0", Hold.TRANSIENT)
    with refused("EAGAIN", "F23", error_offset=5 * PG):
        file.to(TO_PRIVATE)
    file.inode.pins.unpin(in_flight)
    file.to(TO_PRIVATE)


def test_f37_the_plan_invents_a_hold_once(file: InPlace) -> None:
    file.plan.add(PlannedFault(FaultKind.CONVERT_AGAIN, nth=2, page=3, reason="LRU batch"))
    file.to(TO_PRIVATE, 0, 1)
    with refused("EAGAIN", "F23", error_offset=4 * PG):
        file.to(TO_PRIVATE, 1, 7)
    assert "LRU batch" in [entry.reason for entry in file.world.trace.steps("fault")]
    file.to(TO_PRIVATE, 1, 7)
    assert file.states == [PRIVATE] * PAGES


def test_f41_a_poisoned_page_is_told_and_stays_poisoned(file: InPlace) -> None:
    file.vm.write(0, b"x")
    file.inode.poison(0)
    assert file.vm.machine_checks == [0]
    assert file.vm.mapped[0] == 0
    assert file.vm.read(0) == VcpuExit(133, ExitReason.MEMORY_FAULT, 0, 0, PG)
    file.fd.fallocate(PUNCH, 0, PG)
    assert file.vm.read(0) == bytes(8)


ZERO, PRESERVE = 1, 2


@pytest.mark.parametrize(
    ("kind", "finalized", "attributes", "flags", "errno_name"),
    [
        pytest.param(VmType.SW_PROTECTED, True, 0, ZERO, None, id="F40-zero to shared"),
        pytest.param(VmType.SW_PROTECTED, True, 8, ZERO, "EOPNOTSUPP", id="F40-zero to private"),
        pytest.param(VmType.SW_PROTECTED, True, 8, PRESERVE, None, id="F40-preserve"),
        pytest.param(VmType.SNP, False, 8, PRESERVE, None, id="F40-early"),
        pytest.param(VmType.SNP, True, 8, PRESERVE, "EOPNOTSUPP", id="F40-late"),
        pytest.param(VmType.TDX, False, 0, PRESERVE, "EOPNOTSUPP", id="F40-early to shared"),
        pytest.param(VmType.SW_PROTECTED, True, 0, 3, "EINVAL", id="F40-both"),
        pytest.param(VmType.SW_PROTECTED, True, 0, 4, "EINVAL", id="F40-unknown"),
    ],
)
def test_content_promises(
    kind: VmType, attributes: int, flags: int, errno_name: str | None, *, finalized: bool
) -> None:
    made = InPlace("RFC7", kind=kind)
    made.vm.finalized = finalized
    made.mapping.touch(0, b"content")
    if errno_name:
        with refused(errno_name):
            convert(made.inode, ConvertRequest(0, 2 * PG, attributes, flags))
    else:
        convert(made.inode, ConvertRequest(0, 2 * PG, attributes, flags))
        assert made.inode.storage.read(0, 7) == (bytes(7) if flags == ZERO else b"content")
        assert made.inode.storage.usage.host_bytes == PG  # holes stay holes
    made.close()


def test_f40_bytes_without_a_promise_can_be_scrambled() -> None:
    made = InPlace("RFC7")
    made.mapping.touch(0, b"content")
    convert(made.inode, ConvertRequest(0, PG, 8), Unspecified.SCRAMBLE)
    assert made.inode.storage.read(0, 7) != b"content"
    made.close()
