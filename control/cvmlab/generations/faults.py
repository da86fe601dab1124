# SPDX-License-Identifier: GPL-2.0-or-later
"""Planned faults: the nth conversion, allocation or invalidation fails, reproducibly."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """What can go wrong, and at which step of the engine."""

    CONVERT_AGAIN = "convert-again"  # EAGAIN, as if something unknown held a reference
    NO_MEMORY = "no-memory"  # an allocation fails and keeps nothing
    PARTIAL = "partial"  # an allocation is interrupted and keeps some pages
    POISONED = "poisoned"  # the returned page has a memory error
    SLOW_INVALIDATE = "slow-invalidate"  # ``meanwhile`` runs between start and end
    SPLIT = "split"  # a huge page cannot be split
    MERGE = "merge"  # the pages of a huge page cannot be merged
    ARCH_PREPARE = "arch-prepare"  # preparing a slot fails after its checks have passed
    PINNED = "pinned"  # the page is pinned


def _nothing() -> None:
    """Do nothing; the default of ``meanwhile``."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """``kind`` happens at its *nth* occasion, counted from 1.

    ``page`` is counted from the start of the affected range; ``meanwhile`` runs inside a slow
    invalidation, after start and before end.
    """

    kind: FaultKind
    nth: int = 1
    page: int = 0
    reason: str = "injected"
    meanwhile: Callable[[], None] = _nothing


@dataclass(slots=True)
class FaultPlan:
    """Planned faults, and random ones from a seed; equal arguments give equal faults."""

    planned: Iterable[PlannedFault] = ()
    seed: int | None = None
    rates: Mapping[FaultKind, float] = field(default_factory=dict)
    _asked: Counter[FaultKind] = field(default_factory=Counter, init=False)
    _planned: dict[tuple[FaultKind, int], PlannedFault] = field(default_factory=dict, init=False)
    _random: random.Random = field(default_factory=random.Random, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._planned = {(fault.kind, fault.nth): fault for fault in self.planned}

    def add(self, fault: PlannedFault) -> None:
        """Add a fault; its *nth* counts from now."""
        self._planned[fault.kind, self._asked[fault.kind] + fault.nth] = fault

    def take(self, kind: FaultKind, pages: int) -> PlannedFault | None:
        """Count one occasion of *kind* on *pages* pages; return its fault, or None."""
        if not self._planned and not self.rates:
            return None  # add() counts from its call on, so there is nothing to count yet
        self._asked[kind] += 1
        planned = self._planned.pop((kind, self._asked[kind]), None)
        rate = self.rates.get(kind)
        if not rate:
            return planned
        drawn, page = self._random.random(), self._random.randrange(max(pages, 1))
        if planned is None and drawn < rate:
            return PlannedFault(kind, self._asked[kind], page, f"injected by seed {self.seed}")
        return planned
