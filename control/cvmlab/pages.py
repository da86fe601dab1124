# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's pages as a script sees them: counts, runs and pictures, without waking QEMU."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np
from numpy.typing import NDArray

from cvmlab.errors import HostFault
from cvmlab.journal import Ring
from cvmlab.ranges import PAGE_SIZE, GpaRange
from cvmlab.records import Phase
from cvmlab.states import Counter, PageState
from cvmlab.table import Extent, PageCounts, PageTable


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of the memory files, and where the guest sees it."""

    gpa: int
    offset: int
    size: int

    @property
    def range(self) -> GpaRange:
        return GpaRange(self.gpa, self.size)


@dataclass(frozen=True, slots=True)
class StateRun:
    """Consecutive guest physical pages in one state."""

    range: GpaRange
    state: PageState


@final
class Pages:
    """Live view of one VM's pages; readable until the VM's context is left."""

    def __init__(self, ring: Ring, table: PageTable, slots: Sequence[Slot]) -> None:
        self._ring = ring
        self._table = table
        self.slots = tuple(sorted(slots, key=lambda slot: slot.gpa))

    @property
    def table(self) -> NDArray[np.uint8]:
        """The state bytes, live and read-only; see PageTable.view() for huge guests."""
        return self._table.view()

    @property
    def total(self) -> int:
        return self._table.pages

    @property
    def phase(self) -> Phase:
        return self._ring.phase

    def counts(self) -> PageCounts:
        """Return pages by state as the plugin keeps them: exact, and free at any size."""
        return self._ring.page_counts()

    def counters(self) -> dict[Counter, int]:
        """Return what happened since launch, as the plugin keeps it."""
        return self._ring.counters()

    def state_of(self, gpa: int) -> PageState:
        """Return the state of the page that holds *gpa*; raise IndexError outside RAM."""
        for slot in self.slots:
            if 0 <= gpa - slot.gpa < slot.size:
                return self._table.state((slot.offset + gpa - slot.gpa) // PAGE_SIZE)
        raise IndexError(f"{gpa:#x} is not guest RAM")

    def runs(self, limit: int | None = None) -> list[StateRun]:
        """Return at most *limit* runs of equal state, by guest physical address."""
        return list(islice(self._runs(), limit))

    def _runs(self) -> Iterator[StateRun]:
        for slot in self.slots:
            first = slot.offset // PAGE_SIZE
            for run in self._table.iterate_runs(first, slot.size // PAGE_SIZE):
                start = slot.gpa + (run.first - first) * PAGE_SIZE
                yield StateRun(GpaRange(start, run.count * PAGE_SIZE), run.state)

    def extents(self) -> Iterator[Extent]:
        """Yield copies of the parts of the table that have storage: all else is pending."""
        return self._table.extents()

    def heat(self, cells: int) -> NDArray[np.int64]:
        """Return pages by state for *cells* equal parts of RAM, by offset: shape (cells, 4)."""
        return self._table.heat(cells)

    def assert_no_host_faults(self) -> None:
        """Raise HostFault if the host ever touched private memory."""
        faults = self.counters()[Counter.HOST_FAULTS]
        if faults:
            raise HostFault(
                f"the host touched private memory: {faults} faults",
                hint="`cvmlab events` shows who; --on-host-access share would convert the pages",
            )
