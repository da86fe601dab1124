# SPDX-License-Identifier: GPL-2.0-or-later
import re
from collections.abc import Sequence

import numpy as np
import pytest

from cvmlab.memory import page_map
from cvmlab.memory.page_map import Canvas, Extents, Ink
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.states import LAUNCH_FLAG, PageState


def table(*parts: tuple[int, Sequence[int]]) -> Extents:
    """Parts of a page-state table that have storage: (first page, states)."""
    return lambda: [(first, np.array(states, np.uint8)) for first, states in parts]


def slot(pages: int, *, gpa: int = 0, offset: int = 0) -> Slot:
    return Slot(gpa, offset * PAGE_SIZE, pages * PAGE_SIZE)


P, S, X = PageState.PRIVATE, PageState.SHARED, PageState.POISONED


def test_every_state_has_its_letter_and_a_full_cell_is_upper_case() -> None:
    states = [P, P, P, 0, S, S, S, P, X, P, 0, 0]

    picture = page_map.draw(table((0, states)), [slot(12)], Canvas(width=6, height=1))

    assert picture.splitlines()[0] == "0x000000000000 PpSs!."


def test_one_shared_page_in_a_private_cell_is_seen() -> None:
    states = [P] * 511 + [S]

    picture = page_map.draw(table((0, states)), [slot(512)], Canvas(width=1, height=1))

    assert picture.splitlines()[0].endswith(" s")
    assert "S/s shared 0.2 %" in picture


def test_launch_pages_are_drawn_by_their_state() -> None:
    picture = page_map.draw(table((0, [P | LAUNCH_FLAG] * 4)), [slot(4)], Canvas(4, 1))

    assert picture.splitlines()[0].endswith(" PPPP")


def test_slots_begin_lines_of_their_own_at_their_addresses() -> None:
    low, high = slot(4), slot(4, gpa=1 << 32, offset=4)
    extents = table((2, [P, P, S, S]))

    lines = page_map.draw(extents, [high, low], Canvas(width=4, height=2)).splitlines()

    assert lines[:2] == ["0x000000000000 ..PP", "0x000100000000 SS.."]


def test_a_cell_is_a_power_of_two_so_that_lines_begin_at_round_addresses() -> None:
    lines = page_map.draw(table(), [slot(9)], Canvas(width=4, height=1)).splitlines()

    assert lines[:2] == ["0x000000000000 ...", ""]
    assert lines[-1] == "one character is 16K"


def test_a_slot_that_ends_inside_a_cell_is_not_counted_beyond_its_end() -> None:
    lines = page_map.draw(table((0, [P] * 5)), [slot(5)], Canvas(width=2, height=1)).splitlines()

    assert lines[0] == "0x000000000000 PP"


def test_a_terabyte_is_drawn_from_the_little_that_was_touched() -> None:
    pages = 1 << 28

    picture = page_map.draw(table((pages - 1, [S])), [slot(pages)], Canvas(width=64, height=16))

    rows = [line for line in picture.splitlines() if line.startswith("0x")]
    assert len(rows) == 16
    assert rows[-1] == "0x00f000000000 " + "." * 63 + "s"
    assert "S/s shared < 0.1 %" in picture
    assert ". pending > 99.9 %" in picture
    assert "one character is 1G" in picture


def test_colour_mixes_the_rarest_state_with_the_commonest_other() -> None:
    states = [S, P, P, P, P, P, P, P]

    picture = page_map.draw(table((0, states)), [slot(8)], Canvas(1, 1, Ink.COLOUR))

    assert "\x1b[33;44m░" in picture
    assert all(line.endswith("\x1b[0m") for line in picture.splitlines() if "0x" in line)


def test_ascii_has_no_escapes() -> None:
    picture = page_map.draw(table((0, [P, S, X, 0])), [slot(4)], Canvas(4, 1, Ink.ASCII))

    assert picture.isascii()
    assert not re.search(r"\x1b", picture)


def test_no_memory_is_said_and_not_drawn() -> None:
    assert page_map.draw(table(), [], Canvas()) == "no restricted memory\n"


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 1_000_000, "< 0.1 %"),
        (999_999, 1_000_000, "> 99.9 %"),
        (1, 4, "25.0 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_all(part: int, whole: int, expected: str) -> None:
    assert page_map.share(part, whole) == expected
