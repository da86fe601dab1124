# SPDX-License-Identifier: GPL-2.0-or-later
"""What of the guest's memory a dump has, and from which file."""

import pytest

from cvmlab.dump.contents import Extent, Holder, Piece, Reach, extents, pieces
from cvmlab.memory.ranges import Slot
from cvmlab.memory.states import Layout, PageState
from cvmlab.memory.table import PageRun


PAGE = 4096
HIGH = 1 << 32
# A PC's: low memory, a part without a slot, and memory above 4 GiB.
SLOTS = [Slot(HIGH, 8 * PAGE, 4 * PAGE), Slot(0, 0, 2 * PAGE), Slot(4 * PAGE, 4 * PAGE, 4 * PAGE)]
RUNS = [
    PageRun(0, 1, PageState.PRIVATE),
    PageRun(1, 5, PageState.SHARED),
    PageRun(6, 1, PageState.POISONED),
    PageRun(7, 3, PageState.PENDING),
    PageRun(10, 2, PageState.PRIVATE),
]


def found(layout: Layout, reach: Reach) -> list[tuple[int, int, int, Holder]]:
    made = pieces(SLOTS, RUNS, layout, reach)
    return [(p.gpa // PAGE, p.offset // PAGE, p.size // PAGE, p.holder) for p in made]


def test_each_page_is_taken_from_the_file_that_holds_it() -> None:
    assert found(Layout.SPLIT, Reach.ALL) == [
        (0, 0, 1, Holder.PRIVATE),
        (1, 1, 1, Holder.SHARED),
        (4, 4, 2, Holder.SHARED),
        (6, 6, 2, Holder.NOBODY),
        (HIGH // PAGE, 8, 2, Holder.NOBODY),
        (HIGH // PAGE + 2, 10, 2, Holder.PRIVATE),
    ]


def test_in_place_all_content_is_in_one_file() -> None:
    holders = {holder for *_, holder in found(Layout.IN_PLACE, Reach.ALL)}
    assert holders == {Holder.PRIVATE, Holder.NOBODY}


@pytest.mark.parametrize("layout", list(Layout))
def test_without_private_memory_only_shared_pages_are_there(layout: Layout) -> None:
    assert [piece[:3] for piece in found(layout, Reach.SHARED)] == [(1, 1, 1), (4, 4, 2)]


def test_pieces_that_follow_each_other_are_one_extent() -> None:
    low, next_to_it = Piece(0, 0, PAGE, Holder.PRIVATE), Piece(PAGE, 9, PAGE, Holder.SHARED)
    apart = Piece(3 * PAGE, 0, PAGE, Holder.PRIVATE)
    assert extents([apart, low, next_to_it]) == [
        Extent(0, 2 * PAGE, (low, next_to_it)),
        Extent(3 * PAGE, PAGE, (apart,)),
    ]
