# SPDX-License-Identifier: GPL-2.0-or-later
"""Draw the page states of a guest's memory for a terminal.  Pure.

Memory is divided into equal cells of one character.  A cell shows its rarest state, however few
pages have it, in front of the most common other one, so a single shared page in a private GiB is
visible.  The block is darker for more pages of that state; without colour, letters replace blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from cvmlab.memory.ranges import PAGE_SIZE, Slot, format_size
from cvmlab.memory.states import PageState
from cvmlab.memory.table import Extent, PageCounts, count_states, heat


Extents = Callable[[], Iterable[Extent]]  # called once per slot, so that a huge table is not kept
Cell = npt.NDArray[np.int64]  # pages by state

# From what is looked for to what is everywhere.
RANK = (PageState.POISONED, PageState.SHARED, PageState.PRIVATE, PageState.PENDING)
SHADES = ((0.25, "░"), (0.5, "▒"), (1.0, "▓"))
FULL = "█"
_ANSI: Mapping[PageState, int] = {
    PageState.PENDING: 90,
    PageState.PRIVATE: 34,
    PageState.SHARED: 33,
    PageState.POISONED: 31,
}
_BACKGROUND = 10  # from an ANSI foreground to the same background
_RESET = "\x1b[0m"
LETTERS: Mapping[PageState, tuple[str, str]] = {  # some pages, all pages
    PageState.PENDING: (".", "."),
    PageState.PRIVATE: ("p", "P"),
    PageState.SHARED: ("s", "S"),
    PageState.POISONED: ("!", "!"),
}


class Ink(StrEnum):
    """What the terminal can show."""

    COLOUR = "colour"
    ASCII = "ascii"


@dataclass(frozen=True, slots=True)
class Canvas:
    """Size of the picture in characters, without the address in front of each line."""

    width: int = 64
    height: int = 16
    ink: Ink = Ink.ASCII


def draw(extents: Extents, slots: Sequence[Slot], canvas: Canvas) -> str:
    """Return the picture of all *slots*, each on lines of its own, with a legend below."""
    pages = sum(slot.size for slot in slots) // PAGE_SIZE
    if not pages:
        return "no restricted memory\n"
    least = -(-pages // (canvas.width * canvas.height))
    cell_pages = 1 << (least - 1).bit_length()
    lines = [
        line
        for slot in sorted(slots, key=lambda slot: slot.gpa)
        for line in _slot_lines(extents, slot, cell_pages, canvas)
    ]
    counts = count_states(extents(), max(slot.offset + slot.size for slot in slots) // PAGE_SIZE)
    return "\n".join([*lines, *_legend(counts, cell_pages, canvas.ink)]) + "\n"


def _slot_lines(extents: Extents, slot: Slot, cell_pages: int, canvas: Canvas) -> Iterator[str]:
    pages = slot.size // PAGE_SIZE
    cells = -(-pages // cell_pages)
    grid = heat(_within(extents(), slot), cells * cell_pages, cells)
    # The last cell may reach beyond the slot; that part is not memory.
    grid[-1, PageState.PENDING] -= cells * cell_pages - pages
    for first in range(0, cells, canvas.width):
        row = grid[first : first + canvas.width]
        gpa = slot.gpa + first * cell_pages * PAGE_SIZE
        yield f"{gpa:#014x} {_row(row, canvas.ink)}"


def _within(extents: Iterable[Extent], slot: Slot) -> Iterator[Extent]:
    """Yield the part of *extents* that is in *slot*, counted from its start."""
    low, high = slot.offset // PAGE_SIZE, (slot.offset + slot.size) // PAGE_SIZE
    for first, states in extents:
        part = states[max(low - first, 0) : max(high - first, 0)]
        if len(part):
            yield max(first, low) - low, part


def _row(cells: Iterable[Cell], ink: Ink) -> str:
    if ink is Ink.ASCII:
        return "".join(map(_letter, cells))
    return "".join(map(_block, cells)) + _RESET


def front(cell: Cell) -> tuple[PageState, float]:
    """Return the rarest state in the cell, and its share of the cell."""
    state = next((state for state in RANK if cell[state] > 0), PageState.PENDING)
    return state, float(cell[state]) / max(int(cell.sum()), 1)


def _letter(cell: Cell) -> str:
    state, share = front(cell)
    return LETTERS[state][share >= 1.0]


def _block(cell: Cell) -> str:
    state, share = front(cell)
    others = [other for other in RANK if other is not state]
    back = max(others, key=lambda other: int(cell[other]))
    shade = next((char for limit, char in SHADES if share < limit), FULL)
    return f"\x1b[{_ANSI[state]};{_ANSI[back] + _BACKGROUND}m{shade}"


def _legend(counts: PageCounts, cell_pages: int, ink: Ink) -> list[str]:
    """Return the meaning of each sign with its share of pages, and the size of a cell."""
    items = []
    for state in reversed(RANK):
        pages = getattr(counts, state.word)
        items.append(f"{_sign(state, ink)} {state.word} {share(pages, counts.total)}")
    cell = format_size(cell_pages * PAGE_SIZE)
    return ["", "   ".join(items), f"one character is {cell}"]


def _sign(state: PageState, ink: Ink) -> str:
    some, full = LETTERS[state]
    if ink is Ink.ASCII:
        return some if some == full else f"{full}/{some}"
    return f"\x1b[{_ANSI[state]}m{FULL}{_RESET}"


def share(part: int, whole: int) -> str:
    """Return a percentage that never rounds a part to 0 % or to 100 %."""
    if not part or part == whole:
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"
