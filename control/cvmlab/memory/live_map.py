# SPDX-License-Identifier: GPL-2.0-or-later
"""A window onto guest memory, divided into cells, and the rates of events.  Pure.

Pages are numbered through all slots in the order of their addresses, without gaps: a cell at the
edge of a slot covers two ranges of guest physical addresses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot
from cvmlab.memory.states import STATE_MASK, PageState
from cvmlab.memory.table import STATES, Extent


Grid = npt.NDArray[np.int64]  # pages by state, a row a cell
LEAST_CELL_PAGES = 1


@dataclass(frozen=True, slots=True)
class Window:
    """Cells ``[0, cells)`` of *cell_pages* pages each, from page *first*."""

    slots: tuple[Slot, ...]
    first: int
    cell_pages: int
    cells: int

    @classmethod
    def whole(cls, slots: Sequence[Slot], cells: int) -> "Window":
        """Return the window that shows all memory in at most *cells* cells."""
        ordered = tuple(sorted(slots, key=lambda slot: slot.gpa))
        pages = sum(slot.size for slot in ordered) // PAGE_SIZE
        return cls(ordered, 0, _round(max(-(-pages // cells), LEAST_CELL_PAGES)), cells)

    @property
    def pages(self) -> int:
        """All pages of the guest."""
        return sum(slot.size for slot in self.slots) // PAGE_SIZE

    @property
    def used(self) -> int:
        """Cells that cover memory."""
        return min(-(-(self.pages - self.first) // self.cell_pages), self.cells)

    def zoomed(self, cell: int, *, closer: bool) -> "Window":
        """Return the window at half or double the scale, centred on *cell*'s first page."""
        whole = Window.whole(self.slots, self.cells)
        if closer:
            pages = max(self.cell_pages // 2, LEAST_CELL_PAGES)
        else:
            pages = min(self.cell_pages * 2, whole.cell_pages)
        centre = self.first + cell * self.cell_pages
        return replace(self, cell_pages=pages).around(centre)

    def moved(self, cells: int) -> "Window":
        """Return the window moved by *cells* cells, or to the end of memory."""
        return self.starting_at(self.first + cells * self.cell_pages)

    def resized(self, cells: int) -> "Window":
        """Return the window with *cells* cells; of all memory, if this one shows all memory."""
        if self.cell_pages >= Window.whole(self.slots, self.cells).cell_pages:
            return Window.whole(self.slots, cells)
        return replace(self, cells=cells).starting_at(self.first)

    def around(self, page: int) -> "Window":
        """Return the window with *page* in the middle."""
        return self.starting_at(page - self.cells * self.cell_pages // 2)

    def starting_at(self, page: int) -> "Window":
        """Return the window that starts at *page*, or as near to it as memory allows."""
        last = max(self.pages - self.cells * self.cell_pages, 0)
        wanted = min(max(page, 0), last)
        return replace(self, first=wanted - wanted % self.cell_pages)

    def cell_of(self, page: int) -> int:
        """Return the cell that shows *page*, or the nearest."""
        return min(max((page - self.first) // self.cell_pages, 0), max(self.used - 1, 0))

    def address(self, cell: int) -> int:
        """Return the guest physical address that *cell* begins at."""
        return self.ranges(cell, cell)[0].start

    def ranges(self, low: int, high: int) -> list[GpaRange]:
        """Return the guest memory of cells *low* to *high*, both included."""
        start = (self.first + low * self.cell_pages) * PAGE_SIZE
        end = (self.first + (high + 1) * self.cell_pages) * PAGE_SIZE
        found, before = [], 0
        for slot in self.slots:
            left, right = max(start, before), min(end, before + slot.size)
            if left < right:
                found.append(GpaRange(slot.gpa + left - before, right - left))
            before += slot.size
        return found

    def grid(self, extents: Iterable[Extent]) -> Grid:
        """Count pages by state in each used cell; *extents* are by offset, as in the table."""
        totals = np.zeros((max(self.used, 0), STATES), np.int64)
        for first, states in extents:
            self._add(totals, first, states)
        firsts = self.first + np.arange(self.used, dtype=np.int64) * self.cell_pages
        sizes = np.minimum(firsts + self.cell_pages, self.pages) - firsts
        totals[:, PageState.PENDING] += sizes - totals.sum(axis=1)
        return totals

    def _add(self, totals: Grid, first: int, states: npt.NDArray[np.uint8]) -> None:
        before = 0
        for slot in self.slots:
            low = max(first, slot.offset // PAGE_SIZE)
            high = min(first + len(states), (slot.offset + slot.size) // PAGE_SIZE)
            if low < high:
                place = np.arange(low, high) - slot.offset // PAGE_SIZE + before - self.first
                shown = (place >= 0) & (place < self.used * self.cell_pages)
                codes = place[shown] // self.cell_pages * STATES
                codes += states[low - first : high - first][shown] & STATE_MASK
                counted = np.bincount(codes, minlength=totals.size)
                totals += counted.reshape(totals.shape)
            before += slot.size // PAGE_SIZE


def _round(pages: int) -> int:
    """Round up to 1, 2, 3, 4, 6, 8, 12, 16 ..., so that cells begin at round addresses."""
    power = 1 << (pages - 1).bit_length()
    return power * 3 // 4 if power >= 4 and power * 3 // 4 >= pages else power


@dataclass(frozen=True, slots=True)
class Sample:
    """The plugin's counters at one moment, in seconds of the host's clock."""

    second: float
    counters: Mapping[str, int]


def rates(before: Sample, after: Sample, names: Iterable[str]) -> dict[str, float]:
    """Return how much each of the counters *names* grew per second; 0 if no time passed."""
    passed = after.second - before.second
    return {
        name: (after.counters[name] - before.counters[name]) / passed if passed > 0 else 0.0
        for name in names
    }


_BARS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw the last *width* values, the highest as a full block, anything above 0 as a bar."""
    shown = list(values)[-width:]
    peak = max(shown, default=0.0)
    if peak <= 0:
        return " " * width
    top = len(_BARS) - 1
    marks = [_BARS[max(round(value / peak * top), 1) if value > 0 else 0] for value in shown]
    return "".join(marks).rjust(width)
