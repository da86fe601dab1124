# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM for the live view that is made up: its memory is an array."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cvmlab.memory.live_map import Sample
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot
from cvmlab.memory.records import Phase
from cvmlab.memory.states import PageState
from cvmlab.memory.table import Extent, PageCounts, count_states
from cvmlab.vm.operations import Target


if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cvmlab.base.errors import CvmError


GAP = 1 << 30  # between its two slots


class FakeSource:
    """64 MiB at 0 and 64 MiB after a gap.  ``refuse`` is the error of every request."""

    def __init__(self) -> None:
        half = 64 << 20
        self.title = "lab  generic  128M"
        self.slots: tuple[Slot, ...] = (Slot(0, 0, half), Slot(GAP, half, half))
        self.table: NDArray[np.uint8] = np.zeros(2 * half // PAGE_SIZE, np.uint8)
        self.phase = Phase.KERNEL
        self.alive = True
        self.counters = dict.fromkeys(MEASURES.slots, 0)
        self.second = 0.0
        self.faults: list[str] = []
        self.converted: list[tuple[list[GpaRange], Target]] = []
        self.is_paused = False
        self.refuse: CvmError | None = None

    def counts(self) -> PageCounts:
        return count_states(self.extents(), len(self.table))

    def sample(self) -> Sample:
        self.second += 0.25
        return Sample(self.second, dict(self.counters))

    def extents(self) -> Iterable[Extent]:
        return [(0, self.table)]

    async def new_faults(self) -> list[str]:
        fresh, self.faults = self.faults, []
        return fresh

    async def paused(self) -> bool:
        return self.is_paused

    async def set_paused(self, *, paused: bool) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.is_paused = paused

    async def convert(self, ranges: Sequence[GpaRange], to: Target) -> int:
        if self.refuse is not None:
            raise self.refuse
        self.converted.append((list(ranges), to))
        state = PageState.SHARED if to is Target.SHARED else PageState.PRIVATE
        pages = 0
        for one in ranges:
            offset = one.start if one.start < GAP else one.start - GAP + self.slots[0].size
            first, count = offset // PAGE_SIZE, one.size // PAGE_SIZE
            self.table[first : first + count] = state
            pages += count
        return pages
