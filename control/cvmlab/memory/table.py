# SPDX-License-Identifier: GPL-2.0-or-later
"""The page-state table as numpy sees it, read without waking QEMU.

The table has a byte for every 4 KiB of guest memory and is mostly holes: a page nobody touched is
pending, and its byte does not exist.  Reading a hole of a mapped memfd would allocate it, so
everything here goes by the extents that have data; a 1 TiB guest costs what it touched.
"""

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.states import STATE_MASK, PageState


STATES = len(PageState)
_CHUNK_PAGES = 1 << 20

Extent = tuple[int, NDArray[np.uint8]]  # index of the first page, states


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages by state."""

    pending: int = 0
    private: int = 0
    shared: int = 0
    poisoned: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.private + self.shared + self.poisoned


@dataclass(frozen=True, slots=True)
class PageRun:
    """Pages ``[first, first + count)`` of the backend, all in one state."""

    first: int
    count: int
    state: PageState


def count_states(extents: Iterable[Extent], pages: int) -> PageCounts:
    """Count *pages* pages by state; what no extent covers is pending."""
    totals = np.zeros(STATES, np.int64)
    for _, states in extents:
        totals += np.bincount(states & STATE_MASK, minlength=STATES)
    totals[0] += pages - int(totals.sum())
    return PageCounts(*totals.tolist())


def heat(extents: Iterable[Extent], pages: int, cells: int) -> NDArray[np.int64]:
    """Return pages by state for each of *cells* equal parts of the memory: shape (cells, 4).

    This is what a picture of the memory is drawn from: one cell is one character or pixel.
    """
    totals = np.zeros(cells * STATES, np.int64)
    for first, states in extents:
        cell = np.arange(first, first + len(states), dtype=np.int64) * cells // pages
        totals += np.bincount(cell * STATES + (states & STATE_MASK), minlength=cells * STATES)
    grid = totals.reshape(cells, STATES)
    # Cell c holds the pages p with p * cells // pages == c: [ceil(c*pages/cells), …).
    edges = -(-np.arange(cells + 1, dtype=np.int64) * pages // cells)
    grid[:, 0] += np.diff(edges) - grid.sum(axis=1)
    return grid


def runs_of(extents: Iterable[Extent], first: int, count: int) -> Iterator[PageRun]:
    """Yield runs of equal state in ``[first, first + count)``, holes and neighbours joined.

    *extents* lie inside the range, in order.
    """
    start, length, state = first, 0, 0
    for at, more, value in _pieces(extents, first, count):
        if value == state:
            length += more
            continue
        if length:
            yield PageRun(start, length, PageState(state))
        start, length, state = at, more, value
    if length:
        yield PageRun(start, length, PageState(state))


def _pieces(extents: Iterable[Extent], first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, count, state) over everything; neighbours may be of equal state."""
    done = first
    for at, states in extents:
        if at > done:
            yield done, at - done, 0
        values = states & STATE_MASK
        starts = np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1))
        lengths = np.diff(np.append(starts, len(values)))
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            yield at + start, length, int(values[start])
        done = at + len(states)
    if first + count > done:
        yield done, first + count - done, 0


@final
class PageTable:
    """The table file of one backend.  Reads what QEMU last wrote; never writes (design D4)."""

    def __init__(self, fd: int, pages: int) -> None:
        self.pages = pages
        self._fd = fd

    def extents(self, first: int = 0, count: int | None = None) -> Iterator[Extent]:
        """Yield copies of the parts that have storage, at most 1 MiB at a time."""
        position, end = first, self.pages if count is None else first + count
        while (data := self._seek(position, os.SEEK_DATA, end)) < end:
            position = self._seek(data, os.SEEK_HOLE, end)
            for start in range(data, position, _CHUNK_PAGES):
                yield start, self._read(start, min(_CHUNK_PAGES, position - start))

    def counts(self) -> PageCounts:
        return count_states(self.extents(), self.pages)

    def iterate_runs(self, first: int = 0, count: int | None = None) -> Iterator[PageRun]:
        """Yield runs of equal state in ``[first, first + count)``."""
        size = self.pages - first if count is None else count
        return runs_of(self.extents(first, size), first, size)

    def runs(self, limit: int | None = None) -> list[PageRun]:
        """Return at most *limit* runs of equal state, from the start of the memory."""
        return list(islice(self.iterate_runs(), limit))

    def heat(self, cells: int) -> NDArray[np.int64]:
        return heat(self.extents(), self.pages, cells)

    def states(self, first: int = 0, count: int | None = None) -> NDArray[np.uint8]:
        """Return a copy of the state bytes of ``[first, first + count)``, flags included."""
        return self._read(first, self.pages - first if count is None else count)

    def state(self, page: int) -> PageState:
        return PageState(int(self._read(page, 1)[0]) & STATE_MASK)

    def view(self) -> NDArray[np.uint8]:
        """Map the table and return it live and read-only.

        Reading a byte that QEMU never wrote gives it storage: of a huge guest, read states().
        """
        mapped = mmap.mmap(self._fd, self.pages, mmap.MAP_SHARED, mmap.PROT_READ)
        return np.frombuffer(mapped, np.uint8)

    def _read(self, first: int, count: int) -> NDArray[np.uint8]:
        if first < 0 or count < 0 or first + count > self.pages:
            raise IndexError(f"pages {first}+{count} are not among {self.pages}")
        buffer = np.zeros(count, np.uint8)
        os.preadv(self._fd, [buffer.data], first)
        return buffer

    def _seek(self, position: int, whence: int, end: int) -> int:
        """Return the next data or hole at or after *position*, or *end*."""
        try:
            return min(os.lseek(self._fd, position, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return end
            raise
