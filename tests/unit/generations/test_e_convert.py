# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd with huge pages: who may touch what, splitting and merging."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED
from cvmlab.generations.files.pins import Hold
from cvmlab.generations.host.mapping import BusError, HostMapping
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.huge import Huge, inode_of
from tests.unit.generations.support import KEEP, M2, PG, refused


if TYPE_CHECKING:
    from cvmlab.generations.hugetlb import HugeGuestMemfd


SIZE = 4 * M2
TO_PRIVATE, TO_SHARED = 8, 0
INIT_PRIVATE = 2


class Convertible:
    """A file of four huge pages, all private at first, bound and mapped."""

    def __init__(self, version: str, kind: VmType = VmType.SW_PROTECTED) -> None:
        self.plan = FaultPlan()
        self.huge = Huge(version, self.plan)
        self.vm = self.huge.kvm.create_vm(kind)
        self.huge.vm = self.vm
        self.fd = self.huge.create(SIZE, more=INIT_PRIVATE if version == "R1v2" else 0)
        self.inode: HugeGuestMemfd = inode_of(self.fd)
        self.vm.set_region(Region(0, 0, SIZE, 4), self.fd)
        if version == "R1v1":
            self.vm.set_attributes(0, SIZE, 8)
        self.mapping = HostMapping(self.fd.file, SIZE)
        self.fd.fallocate(KEEP, 0, SIZE)

    def to(self, attributes: int, offset: int = 0, size: int = SIZE) -> None:
        """Convert by the call of the version."""
        if self.huge.version == "R1v1":
            self.vm.set_attributes(offset, size, attributes)
        else:
            convert(self.inode, ConvertRequest(offset, size, attributes))

    @property
    def split(self) -> list[bool]:
        return [self.inode.folios[number].split for number in sorted(self.inode.folios)]

    @property
    def shared_pages(self) -> list[int]:
        runs = self.inode.private.find(0, SIZE // PG, SHARED)
        return [index for run in runs for index in range(run.start, run.end)]

    def close(self) -> None:
        self.mapping.close()
        self.vm.close()
        self.fd.close()


@pytest.fixture(params=["R1v1", "R1v2", "HUGE26"])
def file(request: pytest.FixtureRequest) -> Iterator[Convertible]:
    made = Convertible(request.param)
    yield made
    made.close()
    assert made.huge.stats() == (8, 0)


def test_e09_the_default_is_set_where_the_version_keeps_it() -> None:
    first = Huge("R1v1")
    for kind, value in ((VmType.SW_PROTECTED, SHARED), (VmType.TDX, PRIVATE)):
        vm = first.kvm.create_vm(kind)
        first.vm = vm
        fd = first.create(M2)
        vm.set_region(Region(0, 0, M2, 4), fd)
        assert inode_of(fd).private.uniform(0, 512, value)
        vm.close()
        fd.close()
    second = Huge("R1v2")
    for more, value in ((0, SHARED), (INIT_PRIVATE, PRIVATE)):
        fd = second.create(M2, more=more)
        assert inode_of(fd).private.uniform(0, 512, value)
        fd.close()
    branch = Huge("HUGE26")
    fd = branch.create(M2)
    assert list(inode_of(fd).private.runs(0, 512)) == [(0, 512, PRIVATE)]
    fd.close()


def test_e10_each_version_has_its_own_call(file: Convertible) -> None:
    if file.huge.version == "R1v1":
        with refused("ENOTTY", "E10"):
            convert(file.inode, ConvertRequest(0, PG, 0))
    file.to(TO_SHARED, 0, PG)
    assert file.shared_pages == [0]


@pytest.mark.parametrize("page", [0, 1, 511, 512], ids=lambda page: f"E11-page {page}")
def test_a_held_page_refuses_and_nothing_of_its_batch_changes(file: Convertible, page: int) -> None:
    file.to(TO_SHARED, 0, 2 * M2)
    pin = file.mapping.pin(page * PG, PG, "vmsplice", Hold.IO)
    name = "EINVAL" if file.huge.version == "R1v1" else "EAGAIN"
    with refused(name, "E11", error_offset=page * PG):
        file.to(TO_PRIVATE, 0, 2 * M2)
    kept = range(512, 1024) if page == 512 and file.huge.version == "HUGE26" else range(1024)
    assert file.shared_pages == list(kept)
    file.inode.pins.unpin(pin)
    file.to(TO_PRIVATE, 0, 2 * M2)
    assert file.shared_pages == []
    assert file.split == [False] * 4


@pytest.mark.parametrize(
    ("version", "wanted", "errno"),
    [
        pytest.param(
            "R1v2", ConvertRequest(0, PG, 8, error_offset=1), "EINVAL", id="E12-error offset"
        ),
        pytest.param("R1v2", ConvertRequest(0, 0, 8), None, id="E12-R1v2 nothing"),
        pytest.param("R1v2", ConvertRequest((1 << 64) - PG, PG, 8), "EINVAL", id="E12-wrap"),
        pytest.param("R1v2", ConvertRequest(SIZE, PG, 8), "EINVAL", id="E12-beyond"),
        pytest.param("R1v2", ConvertRequest(1, PG, 8), "EINVAL", id="E12-unaligned"),
        pytest.param("HUGE26", ConvertRequest(0, 0, 8), "EINVAL", id="E12-HUGE26 nothing"),
        pytest.param("HUGE26", ConvertRequest(0, PG, 8, flags=1), "EINVAL", id="E12-flags"),
        pytest.param(
            "HUGE26", ConvertRequest(0, M2, 8, reserved=1), None, id="E12-reserved unchecked"
        ),
        pytest.param("HUGE26", ConvertRequest(0, PG, 4), "EINVAL", id="E12-attribute"),
    ],
)
def test_arguments_of_the_conversion(
    version: str, wanted: ConvertRequest, errno: str | None
) -> None:
    made = Convertible(version)
    if errno:
        with refused(errno, "E12"):
            convert(made.inode, wanted)
    else:
        convert(made.inode, wanted)
    assert made.shared_pages == []
    made.close()


def test_e12_a_bad_pointer_and_a_vm_without_private_memory() -> None:
    for version in ("R1v2", "HUGE26"):
        made = Convertible(version)
        with refused("EFAULT", "E12"):
            convert(made.inode, None)
        made.close()
    plain = Convertible("HUGE26", VmType.DEFAULT)
    with refused("EINVAL", "E12", rule="no-private-memory"):
        plain.to(TO_SHARED)
    plain.close()


def test_e13_e18_sharing_a_page_in_the_middle_splits_its_huge_page_only(file: Convertible) -> None:
    file.vm.write(M2, b"before")
    file.vm.write(M2 + 8 * PG, b"guest")
    file.to(TO_SHARED, M2 + 8 * PG, PG)
    assert file.split == [False, True, False, False]
    assert file.shared_pages == [520]
    assert file.inode.page(521).order == 0
    assert file.inode.page(0).order == 9
    assert file.mapping.touch(M2 + 8 * PG, size=5) == b"guest"
    assert file.mapping.touch(M2 + 9 * PG) == BusError(M2 + 9 * PG)
    file.mapping.touch(M2 + 8 * PG, b"host!")
    file.to(TO_PRIVATE, M2 + 8 * PG, PG)
    assert file.vm.read(M2 + 8 * PG, 5) == b"host!"
    assert file.vm.read(M2, 6) == b"before"
    assert file.split == [False] * 4


def test_e13_a_page_allocated_into_a_shared_range_is_split_at_once(file: Convertible) -> None:
    file.fd.fallocate(3, M2, M2)
    file.to(TO_SHARED, M2, PG)
    file.fd.fallocate(KEEP, M2, M2)
    assert file.split == [False, True, False, False]


def test_e13_a_split_that_fails_is_rolled_back_as_far_as_the_version_says(
    file: Convertible,
) -> None:
    file.plan.add(PlannedFault(FaultKind.SPLIT, nth=3, reason="no page tables"))
    with refused("ENOMEM", "E13", error_offset=2 * M2):
        file.to(TO_SHARED)
    batches = file.huge.version == "HUGE26"
    assert file.split == ([True, True, False, False] if batches else [False] * 4)
    assert file.shared_pages == (list(range(1024)) if batches else [])
    file.to(TO_SHARED)
    assert file.split == [True] * 4


def test_e14_merging_waits_for_all_of_the_huge_page(file: Convertible) -> None:
    file.to(TO_SHARED, 0, M2)
    for page in range(511):
        file.to(TO_PRIVATE, page * PG, PG)
        assert file.split[0]
    file.to(TO_PRIVATE, 511 * PG, PG)
    assert not file.split[0]
    assert file.inode.page(0).order == 9


def test_e14_a_merge_that_fails_leaves_small_pages(file: Convertible) -> None:
    file.to(TO_SHARED, 0, M2)
    file.plan.add(PlannedFault(FaultKind.MERGE, reason="fragmented"))
    file.to(TO_PRIVATE, 0, M2)
    assert file.shared_pages == []
    assert file.split[0]
    assert "fragmented" in [entry.reason for entry in file.huge.kvm.world.trace.steps("fault")]


def test_e14_only_whole_pages_merge_beside_shared_neighbours(file: Convertible) -> None:
    file.to(TO_SHARED, M2 - PG, 2 * PG)
    assert file.split == [True, True, False, False]
    file.to(TO_PRIVATE, M2 - PG, PG)
    assert file.split == [False, True, False, False]


def test_e10_attributes_of_the_first_rfc_change_all_slots_or_none() -> None:
    made = Convertible("R1v1")
    other = made.huge.create(M2)
    made.vm.set_region(Region(1, SIZE, M2, 4), other)
    made.vm.set_attributes(0, SIZE + M2, 0)
    inode_of(other).pins.pin(0, 1, "vmsplice", Hold.IO)
    with refused("EINVAL", "E11"):
        made.vm.set_attributes(0, SIZE + M2, 8)
    assert made.shared_pages == list(range(SIZE // PG))
    assert made.vm.attributes.uniform(0, (SIZE + M2) // PG, 0)
    other.close()
    made.close()
