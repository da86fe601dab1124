# SPDX-License-Identifier: GPL-2.0-or-later
import os
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.memory.states import LAUNCH_FLAG, PageState
from cvmlab.memory.table import PageCounts, PageRun, PageTable, count_states, heat, runs_of


TIB_PAGES = 1 << 28
ONE, MANY = PageState.PRIVATE, PageState.SHARED


def extents_of(states: list[int]) -> list[tuple[int, np.ndarray[tuple[int], np.dtype[np.uint8]]]]:
    """Cut *states* into extents, leaving out most of what is pending."""
    found = []
    for start in range(0, len(states), 7):
        part = np.array(states[start : start + 7], np.uint8)
        if part.any():
            found.append((start, part))
    return found


@pytest.fixture
def huge() -> Iterator[PageTable]:
    fd = os.memfd_create("table")
    os.ftruncate(fd, TIB_PAGES)
    yield PageTable(fd, TIB_PAGES)
    os.close(fd)


@given(st.lists(st.sampled_from([0, 1, 2, 3, 0x11, 0]), min_size=1, max_size=90))
def test_runs_and_counts_are_those_of_a_plain_loop(states: list[int]) -> None:
    runs = list(runs_of(extents_of(states), 0, len(states)))
    assert [run.state for run in runs for _ in range(run.count)] == [s & 3 for s in states]
    assert all(a.first + a.count == b.first for a, b in pairwise(runs))
    assert all(a.state is not b.state for a, b in pairwise(runs))
    counts = count_states(extents_of(states), len(states))
    assert counts == PageCounts(*([s & 3 for s in states].count(n) for n in range(4)))
    assert counts.total == len(states)


@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 0x12]), min_size=1, max_size=60),
    st.integers(1, 70),
)
def test_every_page_is_in_exactly_one_cell(states: list[int], cells: int) -> None:
    grid = heat(extents_of(states), len(states), cells)
    expected = np.zeros((cells, 4), np.int64)
    for page, state in enumerate(states):
        expected[page * cells // len(states), state & 3] += 1
    assert grid.tolist() == expected.tolist()


def test_a_fresh_tebibyte_is_pending_and_takes_no_storage(huge: PageTable) -> None:
    assert huge.counts() == PageCounts(pending=TIB_PAGES)
    assert huge.runs() == [PageRun(0, TIB_PAGES, PageState.PENDING)]
    assert huge.heat(100)[:, 0].sum() == TIB_PAGES
    assert os.fstat(huge._fd).st_blocks == 0


def test_reading_a_tebibyte_allocates_nothing_but_what_was_touched(huge: PageTable) -> None:
    os.pwrite(huge._fd, bytes([ONE | LAUNCH_FLAG] * 3), 100)
    os.pwrite(huge._fd, bytes([MANY] * 5000), TIB_PAGES - 5000)
    before = os.fstat(huge._fd).st_blocks
    assert huge.counts() == PageCounts(pending=TIB_PAGES - 5003, private=3, shared=5000)
    assert huge.runs() == [
        PageRun(0, 100, PageState.PENDING),
        PageRun(100, 3, ONE),
        PageRun(103, TIB_PAGES - 5103, PageState.PENDING),
        PageRun(TIB_PAGES - 5000, 5000, MANY),
    ]
    assert huge.runs(limit=1) == [PageRun(0, 100, PageState.PENDING)]
    assert huge.runs(limit=0) == []
    assert huge.heat(4)[:, 2].tolist() == [0, 0, 0, 5000]
    assert huge.state(101) is ONE
    assert huge.state(TIB_PAGES // 2) is PageState.PENDING
    assert huge.states(99, 3).tolist() == [0, 0x11, 0x11]
    assert os.fstat(huge._fd).st_blocks == before


def test_runs_of_a_part_start_and_end_inside_it(huge: PageTable) -> None:
    os.pwrite(huge._fd, bytes([ONE] * 10), 0)
    assert list(huge.iterate_runs(5, 10)) == [PageRun(5, 5, ONE), PageRun(10, 5, PageState.PENDING)]
    assert list(huge.iterate_runs(2, 3)) == [PageRun(2, 3, ONE)]


def test_the_view_is_live_and_cannot_be_written(huge: PageTable) -> None:
    view = huge.view()
    os.pwrite(huge._fd, bytes([MANY]), 7)
    assert view[7] == MANY
    with pytest.raises(ValueError, match="read-only"):
        view[7] = 0


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, TIB_PAGES + 1), (TIB_PAGES, 1), (5, -1)])
def test_pages_outside_the_guest_are_an_index_error(
    huge: PageTable, first: int, count: int
) -> None:
    with pytest.raises(IndexError):
        huge.states(first, count)
