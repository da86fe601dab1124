# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's pages for scripts: counts, runs and assertions, read without asking QEMU."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import final

import numpy as np
from numpy.typing import NDArray

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError, HostFault
from cvmlab.memory.journal import Ring
from cvmlab.memory.page_check import StateRun, Wanted, counts_fault, state_fault
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot, unaligned_fault
from cvmlab.memory.records import Phase
from cvmlab.memory.states import PageState
from cvmlab.memory.table import Extent, PageCounts, PageTable


@final
class Pages:
    """Live view of one VM's pages; it is valid until the VM's context ends."""

    def __init__(
        self,
        ring: Ring,
        table: PageTable,
        slots: Sequence[Slot],
        *,
        first_faults: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """*first_faults* describes the first host faults, for assert_no_host_faults()."""
        self._ring = ring
        self._table = table
        self._first_faults = first_faults
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
        """Return the plugin's own counts of pages by state: exact, without a scan of the table."""
        return self._ring.page_counts()

    def counters(self) -> dict[str, int]:
        """Return the plugin's counters since launch, by their names in result.json."""
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
            yield from self._runs_of(slot, slot.range)

    def _runs_of(self, slot: Slot, within: GpaRange) -> Iterator[StateRun]:
        first = (slot.offset + within.start - slot.gpa) // PAGE_SIZE
        for run in self._table.iterate_runs(first, within.size // PAGE_SIZE):
            start = within.start + (run.first - first) * PAGE_SIZE
            yield StateRun(GpaRange(start, run.count * PAGE_SIZE), run.state)

    def runs_in(self, within: GpaRange | str) -> list[StateRun]:
        """Return the runs of equal state that make up *within*, such as ``"512M+2M"``.

        Raise ConfigError if it is not whole pages, IndexError if it is not in one slot of RAM.
        """
        part = GpaRange.parse(within) if isinstance(within, str) else within
        if fault := unaligned_fault([part]):
            raise ConfigError(fault)
        for slot in self.slots:
            if slot.range.contains(part):
                return list(self._runs_of(slot, part))
        raise IndexError(f"{part} is not guest RAM")

    def extents(self) -> Iterator[Extent]:
        """Yield copies of the parts of the table that have storage; all other pages are pending."""
        return self._table.extents()

    def heat(self, cells: int) -> NDArray[np.int64]:
        """Return pages by state for *cells* equal parts of RAM, by offset: shape (cells, 4)."""
        return self._table.heat(cells)

    def assert_counts(self, **wanted: Wanted) -> None:
        """Raise AssertionError unless each count is as *wanted*: a number, or in a range.

        Names are those of page states (``shared=0``) and of counters
        (``accepted=range(20_000)``).  Raise ConfigError for an unknown name.
        """
        if fault := counts_fault(self.counts(), self.counters(), wanted):
            raise AssertionError(fault)

    def assert_state(self, within: GpaRange | str, state: PageState | str) -> None:
        """Raise AssertionError, naming the pages, unless all of *within* is in *state*."""
        words = [one.word for one in PageState]
        want = PageState.of(choose("state", state, words)) if isinstance(state, str) else state
        part = GpaRange.parse(within) if isinstance(within, str) else within
        if fault := state_fault(self.runs_in(part), part, want):
            raise AssertionError(fault)

    def assert_private(self, within: GpaRange | str) -> None:
        """Raise AssertionError unless all of *within* is private and accepted."""
        self.assert_state(within, PageState.PRIVATE)

    def assert_shared(self, within: GpaRange | str) -> None:
        """Raise AssertionError unless all of *within* is shared."""
        self.assert_state(within, PageState.SHARED)

    def assert_no_host_faults(self) -> None:
        """Raise HostFault, with the first faults, if the host has touched private memory."""
        faults = self.counters()["host_faults"]
        if faults:
            number = f"{faults} fault{'s' if faults != 1 else ''}"
            lines = [f"the host touched private memory: {number}", *self._first_faults()]
            raise HostFault(
                "\n".join(lines),
                hint="a guest must share a page before a device uses it",
            )
