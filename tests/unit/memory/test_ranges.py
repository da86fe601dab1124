# SPDX-License-Identifier: GPL-2.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.base.errors import ConfigError
from cvmlab.memory.ranges import (
    GpaRange,
    beyond_fault,
    format_size,
    overlap_fault,
    parse_size,
    require_ranges,
    unaligned_fault,
)


RAM = (GpaRange(0, 0x8000_0000), GpaRange(0x1_0000_0000, 0x8000_0000))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x1000", 4096),
        ("0X1f", 31),
        ("010", 10),
        ("1K", 1024),
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("1GiB", 1 << 30),
        (" 2 T ", 2 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "1.5G", "-1", "1 GB", "1GB", "ten", "0x", "1G1", "5iB", "\u0663"]
)
def test_nonsense_is_not_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.exit_code == 85
    assert "512M" in str(caught.value.hint)


@given(st.integers(min_value=0, max_value=1 << 64))
def test_a_printed_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "start", "size"),
    [
        ("0x1000+2M", 0x1000, 2 << 20),
        ("0x1000-0x3000", 0x1000, 0x2000),
        ("1G-2G", 1 << 30, 1 << 30),
        ("4096+4096", 4096, 4096),
    ],
)
def test_ranges_are_read_with_size_or_end(text: str, start: int, size: int) -> None:
    assert GpaRange.parse(text) == GpaRange(start, size)


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 1 << 40))
def test_a_printed_range_reads_back(start: int, size: int) -> None:
    size = min(size, (1 << 64) - start)
    assert GpaRange.parse(str(GpaRange(start, size))) == GpaRange(start, size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0x1000", "'0x1000' is not a range of guest memory"),
        ("", "'' is not a range of guest memory"),
        ("0x1000+", "'' is not a size"),
        ("0x1000+0", "the range at 0x1000 is empty (rule: not-empty)"),
        ("0x2000-0x1000", "the range at 0x2000 is empty (rule: not-empty)"),
        (
            "0xffffffffffffffff+2",
            "the range at 0xffffffffffffffff with 0x2 bytes ends beyond the 64-bit address space "
            "(rule: in-range)",
        ),
    ],
)
def test_bad_ranges_name_the_rule(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GpaRange.parse(text)
    assert caught.value.message == message


def test_pages_counts_every_page_touched() -> None:
    assert GpaRange(0, 4096).pages == 1
    assert GpaRange(4095, 2).pages == 2
    assert GpaRange(0x1000, 0x2000).pages == 2


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (GpaRange(0x0, 0x1000), False),
        (GpaRange(0x0, 0x1001), True),
        (GpaRange(0x1000, 0x2000), True),
        (GpaRange(0x2FFF, 1), True),
        (GpaRange(0x3000, 0x1000), False),
    ],
)
def test_overlap_is_half_open(other: GpaRange, *, expected: bool) -> None:
    item = GpaRange(0x1000, 0x2000)
    assert item.overlaps(other) is expected
    assert other.overlaps(item) is expected
    assert (overlap_fault([item, other]) is not None) is expected


def test_a_long_range_hides_no_overlap_behind_a_short_one() -> None:
    ranges = [GpaRange(0, 0x9000), GpaRange(0x1000, 0x1000), GpaRange(0x8000, 0x1000)]
    assert overlap_fault(ranges) == "0x0+36K and 0x1000+4K overlap (rule: disjoint)"


def test_faults_are_sentences() -> None:
    assert unaligned_fault([GpaRange(0, 4096), GpaRange(1, 4096)]) == (
        "0x1+4K does not start and end on a 4 KiB page (rule: aligned)"
    )
    assert unaligned_fault([GpaRange(4096, 4095)]) is not None
    assert beyond_fault([GpaRange(0x7FFF_F000, 0x2000)], RAM) == (
        "0x7ffff000+8K is not inside guest RAM, which is 0x0+2G, 0x100000000+2G (rule: in-range)"
    )
    assert beyond_fault([GpaRange(0x7FFF_F000, 0x1000)], RAM) is None


def test_require_ranges_refuses_with_a_hint() -> None:
    require_ranges([GpaRange(0, 4096)], RAM)
    for bad in ([], [GpaRange(0, 1)], [GpaRange(0, 4096)] * 2, [GpaRange(3 << 30, 4096)]):
        with pytest.raises(ConfigError) as caught:
            require_ranges(bad, RAM)
        assert caught.value.hint
