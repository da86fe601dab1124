# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd with huge pages: truncating, closing, tearing down, and pages of the host itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.huge_pages import HugePool
from cvmlab.generations.files.pins import Hold
from cvmlab.generations.hugetlb import HugeKvm
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.huge import BASELINE, POOL, VERSIONS, Huge, flags_of
from tests.unit.generations.support import KEEP, M2, PG, PUNCH, refused


@pytest.fixture(params=VERSIONS)
def huge(request: pytest.FixtureRequest) -> Iterator[Huge]:
    made = Huge(request.param)
    yield made
    made.vm.close()
    assert [pool.stats for pool in made.pools.values()] == [BASELINE] * 2
    assert [pool.cgroup_reserved for pool in made.pools.values()] == [0, 0]


def test_e16_a_held_huge_page_is_not_truncated() -> None:
    for version in ("R1v2", "HUGE26"):
        made = Huge(version)
        fd = made.create(2 * M2)
        fd.fallocate(KEEP, 0, 2 * M2)
        pin = fd.inode.pins.pin(3, 4, "vmsplice", Hold.IO)
        with refused("EAGAIN", "E16"):
            fd.fallocate(PUNCH, 0, M2)
        fd.fallocate(PUNCH, M2, M2)
        fd.inode.pins.unpin(pin)
        fd.fallocate(PUNCH, 0, M2)
        assert made.stats() == (POOL, 2)
        fd.close()


def test_e16_a_held_small_page_is_truncated() -> None:
    made = Huge("R1v2")
    fd = made.vm.create_guest_memfd(M2, 1)
    fd.fallocate(KEEP, 0, M2)
    fd.inode.pins.pin(3, 4, "vmsplice", Hold.IO)
    fd.fallocate(PUNCH, 0, M2)
    assert fd.inode.storage.usage.host_bytes == 0
    fd.close()


@pytest.mark.parametrize("version", ["R1v2", "HUGE26"], ids=["E17-R1v2", "E17-HUGE26"])
def test_pages_held_at_the_close_come_back_later(version: str) -> None:
    made = Huge(version)
    fd = made.create(2 * M2)
    fd.fallocate(KEEP, 0, 2 * M2)
    pins = fd.inode.pins
    pin = pins.pin(3, 4, "iommu", Hold.LONG_TERM)
    fd.close()
    assert made.stats() == (POOL - 1, 0)
    made.kvm.reap()
    assert made.stats() == (POOL - 1, 0)
    pins.unpin(pin)
    made.kvm.reap()
    assert made.stats() == (POOL, 0)


def test_e17_the_first_rfc_frees_held_pages_at_once() -> None:
    made = Huge("R1v1")
    fd = made.create(M2)
    fd.fallocate(KEEP, 0, M2)
    fd.inode.pins.pin(3, 4, "iommu", Hold.LONG_TERM)
    fd.close()
    assert made.stats() == (POOL, 0)


def test_e20_teardown_comes_in_order_with_the_last_reference(huge: Huge) -> None:
    fd = huge.create(2 * M2)
    fd.fallocate(KEEP, 0, M2)
    copy = fd.dup()
    journal = huge.kvm.world.trace
    fd.close()
    assert not journal.steps("truncate")
    copy.close()
    steps = [entry.step for entry in journal.steps("truncate", "free", "put-subpool", "evict")]
    assert steps == ["truncate", "free", "put-subpool", "evict"]


def test_e21_a_file_that_failed_half_way_is_torn_down_too() -> None:
    for version in VERSIONS:
        made = Huge(version, FaultPlan([PlannedFault(FaultKind.NO_MEMORY)]))
        with refused("ENOMEM", "E21"):
            made.create(M2)
        assert made.stats() == (POOL, 0)
        assert made.kvm.world.files == 0


def free_host_pages() -> int:
    path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    return int(path.read_text()) if path.exists() else 0


@pytest.mark.skipif(
    free_host_pages() < 2,
    reason="the kernel here lets nobody have two pages of 2 MiB: none are free",
)
def test_e22_guest_ram_lies_on_huge_pages_of_the_host() -> None:
    before = free_host_pages()
    pool = HugePool(9, 2)
    kvm = HugeKvm(version="R1v2", pools=[pool], real=True)
    vm = kvm.create_vm(VmType.SW_PROTECTED)
    fd = vm.create_guest_memfd(2 * M2, flags_of("R1v2", 9))
    vm.set_region(Region(0, 0, 2 * M2, 4), fd)
    assert vm.write(PG, b"guest") is None
    assert vm.read(PG, 5) == b"guest"
    assert os.fstat(fd.fileno()).st_blocks * 512 == M2
    assert free_host_pages() == before - 1
    fd.fallocate(PUNCH, 0, M2)
    assert free_host_pages() == before
    vm.close()
    fd.close()


def test_e22_without_huge_pages_of_the_host_making_a_real_file_says_so() -> None:
    if free_host_pages() > 1 << 16:
        pytest.skip("the host has more huge pages than this test asks for")
    kvm = HugeKvm(version="R1v2", pools=[HugePool(9, 1 << 20)], real=True)
    vm = kvm.create_vm(VmType.SW_PROTECTED)
    fd = vm.create_guest_memfd((1 << 17) * M2, flags_of("R1v2", 9))
    with pytest.raises(OSError, match=r"fallocate: .*"):
        fd.fallocate(KEEP, 0, (1 << 17) * M2)
    fd.close()
