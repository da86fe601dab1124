# SPDX-License-Identifier: GPL-2.0-or-later
"""The window onto memory: nothing is shown twice, nothing is left out."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.memory.live_map import Sample, Window, rates, sparkline
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot


MIB = 1 << 20
SLOTS = (Slot(0, 0, 3 * MIB), Slot(1 << 32, 3 * MIB, 2 * MIB))
PAGES = 5 * MIB // PAGE_SIZE


@given(st.integers(1, 3000), st.integers(0, 2))
def test_cells_cover_all_memory_once(cells: int, depth: int) -> None:
    window = Window.whole(SLOTS, cells)
    covered = [one for cell in range(window.used) for one in window.ranges(cell, cell)]
    assert sum(one.size for one in covered) == 5 * MIB
    assert all(before.end <= after.start for before, after in pairwise(covered))
    assert window.ranges(0, window.used - 1) == [GpaRange(0, 3 * MIB), GpaRange(1 << 32, 2 * MIB)]


@given(st.integers(1, 400), st.lists(st.tuples(st.booleans(), st.integers(0, 399)), max_size=12))
def test_zoomed_grids_count_what_their_ranges_say(
    cells: int, zooms: list[tuple[bool, int]]
) -> None:
    table = np.random.default_rng(1).integers(0, 4, PAGES).astype(np.uint8)
    window = Window.whole(SLOTS, cells)
    for closer, cell in zooms:
        window = window.zoomed(min(cell, window.used - 1), closer=closer)
    grid = window.grid([(0, table[:700]), (700, table[700:])])
    for cell in {0, window.used // 2, window.used - 1}:
        pages = [
            page
            for one in window.ranges(cell, cell)
            for page in range(one.start // PAGE_SIZE, one.end // PAGE_SIZE)
        ]
        offsets = [page if page < 768 else page - (1 << 20) + 768 for page in pages]
        assert grid[cell].tolist() == np.bincount(table[offsets], minlength=4).tolist()


def test_what_has_no_storage_is_pending() -> None:
    grid = Window.whole(SLOTS, 10).grid([])
    assert grid[:, 0].tolist() == [128] * 10
    assert not grid[:, 1:].any()


def test_zooming_in_and_out_ends_at_everything() -> None:
    whole = Window.whole(SLOTS, 64)
    window = whole
    for _ in range(10):
        window = window.zoomed(63, closer=True)
    assert window.cell_pages == 1
    assert window.first + 64 == PAGES
    for _ in range(10):
        window = window.zoomed(0, closer=False)
    assert window == whole


def test_another_size_shows_the_same_memory() -> None:
    whole = Window.whole(SLOTS, 64)
    assert whole.resized(128) == Window.whole(SLOTS, 128)
    near = whole.zoomed(32, closer=True).zoomed(32, closer=True)
    assert near.resized(32).first == pytest.approx(near.first, abs=near.cell_pages)
    assert near.resized(32).cell_pages == near.cell_pages


def test_no_memory_is_an_empty_window() -> None:
    window = Window.whole((), 10)
    assert (window.used, window.ranges(0, 0), len(window.grid([]))) == (0, [], 0)


def test_rates_are_per_second() -> None:
    names = ("accepted", "to_shared", "to_private", "host_faults")
    none = dict.fromkeys(names, 0)
    before, after = Sample(1.0, none), Sample(3.0, {**none, "accepted": 500})
    assert list(rates(before, after, names).values()) == [250.0, 0.0, 0.0, 0.0]
    assert rates(before, before, names)["accepted"] == 0.0


def test_a_sparkline_shows_the_least_thing() -> None:
    assert sparkline([], 3) == "   "
    assert sparkline([0.0, 0.001, 1000.0], 5) == "   ▁█"
    assert sparkline([1.0] * 9, 4) == "████"
