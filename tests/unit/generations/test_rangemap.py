# SPDX-License-Identifier: GPL-2.0-or-later
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cvmlab.generations.files.range_map import RangeMap, ValueRun


CHANGES = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=60
)


@given(CHANGES)
def test_the_map_agrees_with_a_plain_list(changes: list[tuple[int, int, int]]) -> None:
    ranges, plain = RangeMap(), [0] * 300
    for start, length, value in changes:
        ranges.set(start, start + length, value)
        plain[start : start + length] = [value] * length
    assert [ranges[index] for index in range(300)] == plain
    runs = list(ranges.runs(0, 300))
    assert [run.value for run in runs for _ in range(run.start, run.end)] == plain
    assert all(one.value != two.value and one.end == two.start for one, two in pairwise(runs))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 4000), st.integers(0, 2)), max_size=25)
)
def test_long_changes_across_blocks_agree_with_a_plain_list(
    changes: list[tuple[int, int, int]],
) -> None:
    ranges, plain = RangeMap(), [0] * 14_000
    for index in range(0, 9000, 2):
        ranges.set(index, index + 1, 1)
        plain[index] = 1
    for start, length, value in changes:
        ranges.set(start, start + length, value)
        plain[start : start + length] = [value] * length
    runs = list(ranges.runs(0, 14_000))
    assert [run.value for run in runs for _ in range(run.start, run.end)] == plain
    assert [ranges[index] for index in range(0, 14_000, 7)] == plain[::7]
    assert len(ranges) == len(runs)


def test_blocks_split_and_vanish_without_losing_a_run() -> None:
    ranges = RangeMap()
    pages = 20_000
    for index in range(0, pages, 2):
        ranges.set(index, index + 1, 1)
    assert len(ranges) == pages
    assert all(ranges[index] == (index + 1) % 2 for index in range(pages))
    ranges.set(3, pages - 3, 2)
    assert list(ranges.runs(0, 6)) == [
        ValueRun(0, 1, 1),
        ValueRun(1, 2, 0),
        ValueRun(2, 3, 1),
        ValueRun(3, 6, 2),
    ]
    assert ranges.count(0, pages, 2) == pages - 6
    ranges.set(0, pages, 0)
    assert len(ranges) == 1
    assert ranges.uniform(0, 1 << 52, 0)


def test_a_terabyte_in_one_value_is_one_run() -> None:
    ranges = RangeMap()
    ranges.set(0, 1 << 28, 1)
    assert len(ranges) == 2
    assert ranges.bytes_used < 1000


def test_alternating_pages_stay_far_below_64_bytes_each() -> None:
    ranges = RangeMap()
    pages = 200_000
    for index in range(0, pages, 2):
        ranges.set(index, index + 1, 1)
    assert len(ranges) == pages
    assert ranges.bytes_used < 64 * pages
    assert ranges[77_777] == 0
    assert ranges[77_778] == 1


@given(CHANGES, st.integers(0, 260), st.integers(0, 60), st.integers(0, 3))
def test_uniform_is_what_looking_at_each_page_says(
    changes: list[tuple[int, int, int]], start: int, length: int, value: int
) -> None:
    ranges = RangeMap()
    for first, pages, changed in changes:
        ranges.set(first, first + pages, changed)
    expected = all(ranges[index] == value for index in range(start, start + length))
    assert ranges.uniform(start, start + length, value) is expected


def test_uniform_looks_across_blocks() -> None:
    ranges = RangeMap()
    for index in range(0, 20_000, 2):
        ranges.set(index, index + 1, 1)
    assert [index for index in range(19_000) if ranges.uniform(index, index + 2, 1)] == []
    assert all(ranges.uniform(index, index + 1, 1) for index in range(0, 20_000, 2))
    assert ranges.uniform(19_999, 1 << 40, 0)
