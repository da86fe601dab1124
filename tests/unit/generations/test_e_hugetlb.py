# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd with huge pages: creation, pools, fallocate, teardown, in the three posted shapes."""

from collections.abc import Iterator

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.inode import Process
from cvmlab.generations.host.mapping import HostMapping
from tests.unit.generations.huge import BASELINE, ORDERS, POOL, VERSIONS, Huge, inode_of
from tests.unit.generations.support import KEEP, M2, PG, PUNCH, refused


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
    plan.add(PlannedFault(FaultKind.NO_MEMORY))
    with refused("ENOMEM", "E05"):
        fd.fallocate(KEEP, 0, M2)
    assert made.stats() == (POOL, 2)
    fd.close()


def test_e05_a_signal_keeps_the_huge_pages_it_came_after(huge: Huge) -> None:
    fd = huge.create(4 * M2)
    huge.kvm.world.faults.add(PlannedFault(FaultKind.PARTIAL, page=3, reason="SIGALRM"))
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
