# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-state table: huge and empty, odd in size, and with holes."""

import numpy as np
import pytest

from cvmlab.memory.states import (
    Change,
    Event,
    Model,
    PageState,
    RefusalCode,
    RefusedChange,
    profiles,
)
from tests.plugin.conftest import MakeCore


TIB_PAGES = 1 << 28
CHUNK = 4096  # pages whose states share one page of the table file


def test_walking_a_huge_fresh_table_allocates_nothing(make_core: MakeCore) -> None:
    core = make_core("sw-protected", TIB_PAGES)
    assert core.run_at(0, TIB_PAGES) == (0, TIB_PAGES, PageState.PENDING)
    assert core.check(0, TIB_PAGES, Event.TO_SHARED) is None
    assert core.apply(0, TIB_PAGES, Event.DISCARD) == (
        Change(0, TIB_PAGES, PageState.PENDING, PageState.PENDING),
    )
    assert core.table_file.storage_bytes == 0
    assert core.page_counts[PageState.PENDING] == TIB_PAGES


def test_a_run_that_ends_where_a_hole_begins_leaves_the_hole(make_core: MakeCore) -> None:
    core = make_core("sw-protected", 8 * CHUNK)
    core.apply(0, CHUNK, Event.ACCEPT)
    before = core.table_file.storage_bytes
    assert core.run_at(0, 8 * CHUNK) == (0, CHUNK, PageState.PRIVATE)
    assert core.run_at(1, CHUNK) == (1, CHUNK - 1, PageState.PRIVATE)
    assert core.table_file.storage_bytes == before


def test_reset_of_an_odd_sized_table_leaves_nothing_of_it(make_core: MakeCore) -> None:
    core = make_core("sw-protected", CHUNK + 5)
    core.apply(0, CHUNK + 5, Event.ACCEPT)
    core.reset()
    assert core.table_file.storage_bytes == 0


def test_reset_gives_the_storage_of_the_table_back(make_core: MakeCore) -> None:
    core = make_core("sw-protected", TIB_PAGES)
    core.apply(TIB_PAGES // 2 - 5, 10 * CHUNK, Event.LOAD)
    core.touch(TIB_PAGES - 1)
    assert core.table_file.storage_bytes > 0
    core.reset()
    assert core.table_file.storage_bytes == 0
    assert core.run_at(0, TIB_PAGES) == (0, TIB_PAGES, PageState.PENDING)
    assert core.page_counts == {**dict.fromkeys(PageState, 0), PageState.PENDING: TIB_PAGES}
    assert core.counters["resets"] == 1


def test_runs_go_through_holes_and_explicit_zeros_alike(make_core: MakeCore) -> None:
    core = make_core("sw-protected", 16 * CHUNK)
    core.apply(3 * CHUNK, CHUNK, Event.TO_SHARED)
    core.apply(5 * CHUNK + 7, 1, Event.POISON)
    core.apply(8 * CHUNK, 2 * CHUNK, Event.TO_SHARED)
    core.apply(9 * CHUNK, CHUNK, Event.TO_PRIVATE)
    assert list(core.runs(0, 16 * CHUNK)) == [
        (0, 3 * CHUNK, PageState.PENDING),
        (3 * CHUNK, CHUNK, PageState.SHARED),
        (4 * CHUNK, CHUNK + 7, PageState.PENDING),
        (5 * CHUNK + 7, 1, PageState.POISONED),
        (5 * CHUNK + 8, 3 * CHUNK - 8, PageState.PENDING),
        (8 * CHUNK, CHUNK, PageState.SHARED),
        (9 * CHUNK, 7 * CHUNK, PageState.PENDING),
    ]


def test_a_change_over_data_and_holes_reports_each_run_once(make_core: MakeCore) -> None:
    core = make_core("sw-protected", 6 * CHUNK)
    core.apply(2 * CHUNK + 1, 2, Event.ACCEPT)
    assert core.apply(1, 5 * CHUNK, Event.TO_SHARED) == (
        Change(1, 2 * CHUNK, PageState.PENDING, PageState.SHARED),
        Change(2 * CHUNK + 1, 2, PageState.PRIVATE, PageState.SHARED),
        Change(2 * CHUNK + 3, 3 * CHUNK - 2, PageState.PENDING, PageState.SHARED),
    )
    assert core.page_counts[PageState.SHARED] == 5 * CHUNK


@pytest.mark.parametrize("pages", [1, 7, 8, 9, 63, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("table_fd", [None, -1])
def test_tables_of_any_size_are_like_the_models(
    make_core: MakeCore, pages: int, table_fd: int | None
) -> None:
    core, model = (
        make_core("generic", pages, table_fd=table_fd),
        Model(profiles()["generic"], pages),
    )
    chance = np.random.default_rng(pages)
    for _ in range(60):
        first = int(chance.integers(0, pages))
        count = int(chance.integers(1, pages - first + 1))
        event = Event(int(chance.integers(0, len(Event))))
        assert core.apply(first, count, event) == model.apply(first, count, event)
    assert (core.table == model.table).all()
    core.reset()
    assert not core.table.any()


def test_a_file_that_cannot_seek_for_data_is_read_whole(make_core: MakeCore) -> None:
    core = make_core("generic", CHUNK + 1, table_fd=1 << 20)  # no such descriptor
    core.apply(CHUNK, 1, Event.ACCEPT)
    assert list(core.runs(0, CHUNK + 1)) == [(0, CHUNK, 0), (CHUNK, 1, 1)]
    core.reset()
    assert not core.table.any()


@pytest.mark.parametrize("first", [0, 1, 6, 7])
@pytest.mark.parametrize("bad", range(8))
def test_the_first_page_that_refuses_is_named(make_core: MakeCore, first: int, bad: int) -> None:
    core = make_core("sw-protected", 8)
    core.apply(bad, 1, Event.POISON)
    expected = RefusedChange(RefusalCode.PAGE_POISONED, bad) if bad >= first else None
    assert core.check(first, 8 - first, Event.TO_SHARED) == expected


@pytest.mark.parametrize("event", [len(Event), 255, -1])
def test_an_event_there_is_not_is_refused(make_core: MakeCore, event: int) -> None:
    core = make_core("generic", 4)
    assert core.apply(2, 1, event) == RefusedChange(RefusalCode.OUT_OF_RANGE, 2)
    assert core.apply_page(2, event) == (RefusalCode.OUT_OF_RANGE, PageState.PENDING)
    assert not core.table.any()


def test_runs_end_with_the_table(make_core: MakeCore) -> None:
    core = make_core("generic", 4)
    assert core.run_at(1, (1 << 64) - 1) == (1, 3, PageState.PENDING)
    assert core.run_at(4, 1)[1] == 0
    assert core.run_at((1 << 64) - 1, 2)[1] == 0
    assert core.run_at(2, 0)[1] == 0


def test_a_touch_does_not_accept_where_the_guest_has_to(make_core: MakeCore) -> None:
    core = make_core("tdx", 8)
    assert core.touch(3) is PageState.PENDING
    assert core.touch(3) is PageState.PENDING
    assert core.counters["accepted"] == 0
    core.apply(3, 1, Event.ACCEPT)
    assert core.touch(3) is PageState.PRIVATE


def test_pending_pages_of_the_launch_are_marked_until_they_change(make_core: MakeCore) -> None:
    core = make_core("tdx", 4 * CHUNK)
    core.apply(CHUNK, 2, Event.TO_SHARED)
    core.set_launch(1, 3 * CHUNK)
    marked = [core.is_launch(page) for page in (0, 1, CHUNK - 1, CHUNK, CHUNK + 2, 3 * CHUNK + 1)]
    assert marked == [False, True, True, False, True, False]
    assert core.page_counts[PageState.PENDING] == 4 * CHUNK - 2
    assert core.counters["loaded"] == 0
    core.apply(5, 1, Event.ACCEPT)
    core.apply(6, 1, Event.TO_SHARED)
    core.apply(6, 1, Event.TO_PRIVATE)
    assert [core.is_launch(page) for page in (4, 5, 6, 7)] == [True, False, False, True]
    core.reset()
    assert not core.is_launch(7)


def test_a_discard_takes_the_mark_of_pages_that_stay_pending(make_core: MakeCore) -> None:
    core = make_core("tdx", 4 * CHUNK)
    core.set_launch(1, 2 * CHUNK)
    core.apply(CHUNK, 3 * CHUNK, Event.DISCARD)
    core.apply_page(4, Event.DISCARD)
    marked = [core.is_launch(page) for page in (1, 4, 5, CHUNK - 1, CHUNK, 2 * CHUNK, 3 * CHUNK)]
    assert marked == [True, False, True, True, False, False, False]
    assert core.page_counts[PageState.PENDING] == 4 * CHUNK
    assert core.counters["discarded"] == 0
