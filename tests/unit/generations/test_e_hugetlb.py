# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd with huge pages: creation, pools, fallocate, teardown, in the three posted shapes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cvmlab.generations.exits import VmType
from cvmlab.generations.faults import Fault, FaultKind, FaultPlan
from cvmlab.generations.hugetlb import HugeGuestMemfd, HugeKvm
from cvmlab.generations.inode import Process
from cvmlab.generations.mapping import HostMapping
from cvmlab.generations.openfile import Fd
from cvmlab.generations.pins import Hold
from cvmlab.generations.pool import HugePool, PoolStats
from cvmlab.generations.slots import Region
from tests.unit.generations.support import G1, KEEP, M2, PG, PUNCH, refused


if TYPE_CHECKING:
    from cvmlab.generations.kvm import Vm


VERSIONS = ("R1v1", "R1v2", "HUGE26")
ORDERS = {9: M2, 18: G1}
POOL = 8
BASELINE = PoolStats(nr=POOL, free=POOL, resv=0, surplus=0, overcommit=0)


def flags_of(version: str, order: int, more: int = 0) -> int:
    """The creation flags that ask for huge pages of an order."""
    code = order + 12
    match version:
        case "R1v1":
            return 2 | code << 26
        case "R1v2":
            return 1 | 4 | code << 58 | more
        case _:
            return 1 | 4 | more


class Huge:
    """A kernel with eight huge pages of each order, and a VM."""

    def __init__(self, version: str, faults: FaultPlan | None = None, nodes: int = 1) -> None:
        self.version = version
        self.pools = {order: HugePool(order, POOL) for order in ORDERS}
        self.kvm = HugeKvm(version=version, pools=self.pools.values(), faults=faults, nodes=nodes)
        self.vm: Vm = self.kvm.create_vm(VmType.SW_PROTECTED)

    def create(self, size: int, order: int = 9, more: int = 0) -> Fd:
        page_order = order if self.version == "HUGE26" else 0
        return self.vm.create_guest_memfd(size, flags_of(self.version, order, more), page_order)

    def stats(self, order: int = 9) -> tuple[int, int]:
        """Free and reserved pages; the other numbers never move."""
        found = self.pools[order].stats
        assert (found.nr, found.surplus, found.overcommit) == (POOL, 0, 0)
        return found.free, found.resv


def inode_of(fd: Fd) -> HugeGuestMemfd:
    inode = fd.inode
    assert isinstance(inode, HugeGuestMemfd)
    return inode


@pytest.fixture(params=VERSIONS)
def huge(request: pytest.FixtureRequest) -> Iterator[Huge]:
    made = Huge(request.param)
    yield made
    made.vm.close()
    assert [pool.stats for pool in made.pools.values()] == [BASELINE] * 2
    assert [pool.cgroup_reserved for pool in made.pools.values()] == [0, 0]


@pytest.mark.parametrize("order", ORDERS, ids=["E01-2M", "E01-1G"])
def test_the_flags_say_the_page_size(huge: Huge, order: int) -> None:
    fd = huge.create(2 * ORDERS[order], order)
    assert inode_of(fd).block * PG == ORDERS[order]
    assert huge.stats(order) == (POOL, 2)
    fd.close()


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        pytest.param("R1v1", 1, id="E01-R1v1"),
        pytest.param("R1v1", 21 << 26, id="E01-R1v1 size without flag"),
        pytest.param("R1v2", 8, id="E01-R1v2"),
        pytest.param("HUGE26", 8, id="E01-HUGE26"),
    ],
)
def test_unknown_flags_are_refused(version: str, flags: int) -> None:
    with refused("EINVAL", "E01"):
        Huge(version).vm.create_guest_memfd(M2, flags)


@pytest.mark.parametrize(
    ("version", "flags", "page_order", "errno"),
    [
        pytest.param("R1v1", 2 | 24 << 26, 0, "ENOENT", id="E02-R1v1"),
        pytest.param("R1v2", 4 | 24 << 58, 0, "EINVAL", id="E02-R1v2"),
        pytest.param("HUGE26", 4, 0, "EINVAL", id="E02-HUGE26 order 0"),
        pytest.param("HUGE26", 4, 5, "EINVAL", id="E02-HUGE26 no such pages"),
        pytest.param("HUGE26", 0, 9, "EINVAL", id="E02-HUGE26 order without flag"),
        pytest.param("HUGE26", 4 | 2 | 1, 9, "EINVAL", id="E02-HUGE26 shared from the start"),
    ],
)
def test_impossible_page_sizes(version: str, flags: int, page_order: int, errno: str) -> None:
    with refused(errno, "E02"):
        Huge(version).vm.create_guest_memfd(M2, flags, page_order)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "rule"),
    [
        (KEEP, 0, 0, "not-positive"),
        (2, 0, M2, "vfs-mode"),
        (KEEP, M2, (1 << 63) - M2, "too-big"),
        (0, 0, M2, "no-keep-size"),
        (KEEP | 0x10, 0, M2, "mode"),
        (KEEP, 1, M2, "unaligned"),
        (KEEP, 4 * M2, M2, "beyond-size"),
    ],
)
def test_a_wrong_fallocate_is_refused_as_without_huge_pages(
    huge: Huge, mode: int, offset: int, length: int, rule: str
) -> None:
    fd = huge.create(4 * M2)
    name = {"too-big": "EFBIG"}.get(
        rule, "EOPNOTSUPP" if "mode" in rule or "keep" in rule else "EINVAL"
    )
    with refused(name, rule=rule):
        fd.fallocate(mode, offset, length)
    assert huge.stats() == (POOL, 4)
    fd.close()


def test_d05_d06_callers_and_pointers_are_checked_as_ever(huge: Huge) -> None:
    with refused("EFAULT", "D05"):
        huge.vm.create_guest_memfd_from(None)
    with huge.kvm.world.running_as(Process("child")), refused("EIO", "D06"):
        huge.create(M2)


def test_e03_a_part_of_a_huge_page_reserves_all_of_it(huge: Huge) -> None:
    if huge.version == "HUGE26":
        with refused("EINVAL", "E03"):
            huge.create(M2 + PG)
        return
    fd = huge.create(M2 + PG)
    assert fd.stat().size == M2 + PG
    assert huge.stats() == (POOL, 2)
    fd.close()


@pytest.mark.parametrize("size", [0, -M2, M2 + 1], ids=["E03-zero", "E03-negative", "E03-odd"])
def test_impossible_file_sizes(huge: Huge, size: int) -> None:
    with refused("EINVAL", "E03"):
        huge.create(size)


def test_e04_creation_fails_when_the_pool_is_promised_away(huge: Huge) -> None:
    first = huge.create((POOL - 1) * M2)
    with refused("ENOMEM", "E04"):
        huge.create(2 * M2)
    assert huge.stats() == (POOL, POOL - 1)
    second = huge.create(M2)
    assert huge.pools[9].cgroup_reserved == POOL
    first.close()
    second.close()


def test_e05_allocation_stays_within_the_own_reservation(huge: Huge) -> None:
    one, two = huge.create(4 * M2), huge.create(4 * M2)
    one.fallocate(KEEP, 0, 4 * M2)
    assert huge.stats() == (4, 4)
    subpool = inode_of(one).subpool
    assert subpool is not None
    assert not subpool.take()
    two.fallocate(KEEP, 0, 4 * M2)
    assert huge.stats() == (0, 0)
    one.close()
    two.close()


def test_e05_no_memory_is_enomem_and_changes_nothing() -> None:
    plan = FaultPlan()
    made = Huge("R1v2", plan)
    fd = made.create(2 * M2)
    plan.add(Fault(FaultKind.NO_MEMORY))
    with refused("ENOMEM", "E05"):
        fd.fallocate(KEEP, 0, M2)
    assert made.stats() == (POOL, 2)
    fd.close()


def test_e05_a_signal_keeps_the_huge_pages_it_came_after(huge: Huge) -> None:
    fd = huge.create(4 * M2)
    huge.kvm.world.faults.add(Fault(FaultKind.PARTIAL, page=3, reason="SIGALRM"))
    with refused("EINTR", "E05"):
        fd.fallocate(KEEP, 0, 4 * M2)
    assert huge.stats() == (POOL - 3, 1)
    fd.close()


@pytest.mark.parametrize(
    ("version", "offset", "length", "pages"),
    [
        pytest.param("R1v1", 0, M2 + PG, 1, id="E06-R1v1 rounds the end down"),
        pytest.param("R1v1", PG, 2 * M2 - PG, 2, id="E06-R1v1 rounds the start down"),
        pytest.param("R1v1", 0, PG, 0, id="E06-R1v1 less than a page"),
        pytest.param("R1v2", M2 - PG, 2 * PG, 2, id="E06-R1v2 each page touched"),
        pytest.param("HUGE26", M2, M2, 1, id="E06-HUGE26"),
    ],
)
def test_what_an_allocation_rounds_to(version: str, offset: int, length: int, pages: int) -> None:
    made = Huge(version)
    fd = made.create(4 * M2)
    fd.fallocate(KEEP, offset, length)
    assert made.stats() == (POOL - pages, 4 - pages)
    fd.close()


@pytest.mark.parametrize("mode", [KEEP, PUNCH], ids=["E06-allocate", "E06-punch"])
def test_the_branch_of_2026_wants_whole_huge_pages(mode: int) -> None:
    fd = Huge("HUGE26").create(4 * M2)
    for offset, length in ((PG, M2), (0, M2 + PG)):
        with refused("EINVAL", "E06"):
            fd.fallocate(mode, offset, length)
    fd.close()


@pytest.mark.parametrize("version", ["R1v1", "R1v2"], ids=["E06-R1v1", "E06-R1v2"])
def test_a_partial_punch_zeroes_the_ends_and_frees_the_middle(version: str) -> None:
    made = Huge(version)
    fd = made.create(4 * M2)
    fd.fallocate(KEEP, 0, 4 * M2)
    storage = fd.inode.storage
    for offset in (0, M2 - PG, 3 * M2, 3 * M2 + PG):
        storage.write(offset, b"old")
    fd.fallocate(PUNCH, M2 - PG, 2 * M2 + 2 * PG)
    assert made.stats() == (POOL - 2, 2)
    kept = [storage.read(offset, 3) for offset in (0, M2 - PG, 3 * M2, 3 * M2 + PG)]
    assert kept == [b"old", bytes(3), bytes(3), b"old"]
    fd.close()


@pytest.mark.parametrize("order", ORDERS, ids=["E07-2M", "E07-1G"])
def test_the_counters_at_each_step(huge: Huge, order: int) -> None:
    size = ORDERS[order]
    seen = [huge.stats(order)]
    fd = huge.create(size, order)
    seen.append(huge.stats(order))
    fd.fallocate(KEEP, 0, size)
    seen.append(huge.stats(order))
    fd.fallocate(PUNCH, 0, size)
    seen.append(huge.stats(order))
    fd.fallocate(KEEP, 0, size)
    fd.close()
    seen.append(huge.stats(order))
    assert seen == [(8, 0), (8, 1), (7, 0), (8, 1), (8, 0)]


def test_e08_blocks_count_huge_pages(huge: Huge) -> None:
    fd = huge.create(4 * M2)
    assert (fd.stat().blksize, fd.stat().blocks) == (M2, 0)
    assert inode_of(fd).statfs()[1] == M2
    fd.fallocate(KEEP, 0, 2 * M2)
    assert fd.stat().blocks == 2 * M2 // 512
    fd.close()


def test_e15_new_pages_are_zero_again(huge: Huge) -> None:
    fd = huge.create(M2)
    fd.fallocate(KEEP, 0, M2)
    fd.inode.storage.write(PG, b"old")
    fd.fallocate(PUNCH, 0, M2)
    fd.fallocate(KEEP, 0, M2)
    assert fd.inode.storage.read(PG, 3) == bytes(3)
    fd.close()


@pytest.mark.parametrize(
    ("version", "node"),
    [
        pytest.param("R1v1", 1, id="E19-R1v1 task"),
        pytest.param("R1v2", 0, id="E19-R1v2 none"),
        pytest.param("HUGE26", 1, id="E19-HUGE26 inode"),
    ],
)
def test_where_pages_are_placed(version: str, node: int) -> None:
    made = Huge(version, nodes=2)
    fd = made.create(4 * M2)
    made.kvm.task_node = 1
    if version == "HUGE26":
        made.kvm.task_node = 0
        mapping = HostMapping(fd.file, 4 * M2)
        mapping.bind_memory(3, (1, 0))
        mapping.close()
    fd.fallocate(KEEP, 0, 2 * M2)
    assert [fd.inode.page(index).node for index in (0, 512)] == [node, node]
    fd.close()


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
    journal = huge.kvm.world.journal
    fd.close()
    assert not journal.steps("truncate")
    copy.close()
    steps = [entry.step for entry in journal.steps("truncate", "free", "put-subpool", "evict")]
    assert steps == ["truncate", "free", "put-subpool", "evict"]


def test_e21_a_file_that_failed_half_way_is_torn_down_too() -> None:
    for version in VERSIONS:
        made = Huge(version, FaultPlan([Fault(FaultKind.NO_MEMORY)]))
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
