# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults on request: the nth conversion, allocation or invalidation goes wrong, always the same way."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """Where the engine asks whether something shall go wrong, and what does."""

    CONVERT_AGAIN = "convert-again"  # EAGAIN, as for a reference nobody admits to
    NO_MEMORY = "no-memory"  # an allocation fails, nothing is kept
    PARTIAL = "partial"  # an allocation is interrupted, some pages are kept
    POISONED = "poisoned"  # the page handed out turns out to be bad
    SLOW_INVALIDATE = "slow-invalidate"  # others get a turn between start and end
    SPLIT = "split"  # a huge page cannot be split
    MERGE = "merge"  # the pages of a huge page cannot be merged
    ARCH_PREPARE = "arch-prepare"  # a slot cannot be prepared after all its checks
    PINNED = "pinned"  # somebody holds the page just now


def _nothing() -> None:
    """What happens meanwhile, if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The *nth* time (from 1) its kind is asked for, ``kind`` happens.

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
    """A list of planned faults, and random ones by seed; two plans made alike act alike."""

    planned: Iterable[Fault] = ()
    seed: int | None = None
    rates: Mapping[FaultKind, float] = field(default_factory=dict)
    _asked: Counter[FaultKind] = field(default_factory=Counter, init=False)
    _planned: dict[tuple[FaultKind, int], Fault] = field(default_factory=dict, init=False)
    _random: random.Random = field(default_factory=random.Random, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._planned = {(fault.kind, fault.nth): fault for fault in self.planned}

    def add(self, fault: Fault) -> None:
        """Plan one more; its *nth* counts from now on."""
        self._planned[fault.kind, self._asked[fault.kind] + fault.nth] = fault

    def take(self, kind: FaultKind, pages: int) -> Fault | None:
        """Count one occasion for *kind*, concerning *pages* pages, and return its fault if there is one."""
        if not self._planned and not self.rates:
            return None  # what add() plans counts from then on, so nothing needs counting
        self._asked[kind] += 1
        planned = self._planned.pop((kind, self._asked[kind]), None)
        rate = self.rates.get(kind)
        if not rate:
            return planned
        drawn, page = self._random.random(), self._random.randrange(max(pages, 1))
        if planned is None and drawn < rate:
            return Fault(kind, self._asked[kind], page, f"injected by seed {self.seed}")
        return planned
