# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay a journal: what the page-state table must be, if every change was recorded.

A journal that dropped records cannot be replayed; ask the ring's header first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cvmlab.ranges import PAGE_SIZE
from cvmlab.records import Kind
from cvmlab.states import LAUNCH_FLAG, STATE_MASK, Event, PageState, Refusal, Rules


_CHANGES = {Kind.ACCEPT, Kind.CONVERT, Kind.DISCARD, Kind.POISON, Kind.LOAD}


@dataclass(frozen=True, slots=True)
class Slot:
    """Where part of a backend sits: GPA, offset in its files, both and ``size`` in bytes."""

    gpa: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Record ``seq``, of the pages at ``gpa``, does not fit what came before it."""

    seq: int
    gpa: int
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The table after the journal (flags included), and what in the journal made no sense."""

    table: NDArray[np.uint8]
    discrepancies: tuple[Discrepancy, ...]


def replay(records: NDArray[np.void], rules: Rules, slots: Sequence[Slot], pages: int) -> Replay:
    """Run *records* (dtype RECORD, in order of seq) over a fresh table of *pages* pages.

    Each change must start from the state the table is in and be a step that the rules allow.
    """
    slots = [*slots, *_without_address(slots)]
    table: NDArray[np.uint8] = np.zeros(pages, np.uint8)
    odd: list[Discrepancy] = []
    # Most of a journal is single pages accepted on first touch: those go by the thousand.
    single = (records["kind"] == Kind.ACCEPT) & (records["pages"] == 1)
    for batch in np.split(records, np.flatnonzero(np.diff(single)) + 1):
        if not _accept_all(table, batch, rules, slots):
            odd += _one_by_one(table, batch, rules, slots)
    return Replay(table, tuple(odd))


def _without_address(slots: Sequence[Slot]) -> Iterator[Slot]:
    """Yield the parts of the file between slots: a PC's shadow RAM, journaled at its offset."""
    ordered = sorted(slots, key=lambda slot: slot.offset)
    for before, after in pairwise(ordered):
        end = before.offset + before.size
        if end < after.offset:
            yield Slot(end, end, after.offset - end)


def _accept_all(
    table: NDArray[np.uint8], batch: NDArray[np.void], rules: Rules, slots: Sequence[Slot]
) -> bool:
    """Take *batch* in one go if it is single pages accepted, and nothing about it is odd."""
    if not len(batch) or (batch["kind"] != Kind.ACCEPT).any() or (batch["pages"] != 1).any():
        return False
    accept = _Step(Kind.ACCEPT, PageState.PENDING, PageState.PRIVATE)
    pages = np.full(len(batch), -1, np.int64)
    for slot in slots:
        inside = (batch["gpa"] >= slot.gpa) & (batch["gpa"] < slot.gpa + slot.size)
        pages[inside] = (batch["gpa"][inside] - slot.gpa + slot.offset) // PAGE_SIZE
    plain = (
        accept.legal(rules)
        and (batch["from"] == accept.before).all()
        and (batch["to"] == accept.after).all()
        and (pages >= 0).all()
        and (table[pages] & STATE_MASK == accept.before).all()
        and len(np.unique(pages)) == len(pages)
    )
    if plain:
        table[pages] = accept.after
    return bool(plain)


def _one_by_one(
    table: NDArray[np.uint8], batch: NDArray[np.void], rules: Rules, slots: Sequence[Slot]
) -> Iterator[Discrepancy]:
    fields = ("seq", "kind", "gpa", "pages", "from", "to")
    for seq, number, gpa, count, before, after in zip(
        *(batch[field].tolist() for field in fields), strict=True
    ):
        kind = Kind(number)
        if kind is Kind.RESET:
            table[:] = 0
        elif kind in _CHANGES:
            step = _Step(kind, PageState(before), PageState(after))
            for text in _take(table, step, rules, list(page_spans(slots, gpa, count)), count):
                yield Discrepancy(seq, gpa, text)


def page_spans(slots: Iterable[Slot], gpa: int, pages: int) -> Iterator[slice]:
    """Yield the table indexes of *pages* pages from *gpa*, slot by slot; gaps are left out."""
    end = gpa + pages * PAGE_SIZE
    for slot in sorted(slots, key=lambda slot: slot.gpa):
        low, high = max(gpa, slot.gpa), min(end, slot.gpa + slot.size)
        if low < high:
            first = (slot.offset + low - slot.gpa) // PAGE_SIZE
            yield slice(first, first + (high - low) // PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class _Step:
    kind: Kind
    before: PageState
    after: PageState

    @property
    def events(self) -> tuple[Event, ...]:
        """What can have made a record of this kind."""
        match self.kind:
            case Kind.ACCEPT:
                return (Event.ACCEPT, Event.TOUCH)
            case Kind.CONVERT if self.after is PageState.SHARED:
                return (Event.TO_SHARED,)
            case Kind.CONVERT:
                return (Event.TO_PRIVATE,)
            case _:
                return (Event.of(self.kind.word),)

    def legal(self, rules: Rules) -> bool:
        cells = [rules.judge(self.before, event) for event in self.events]
        return any(cell.refusal is Refusal.OK and cell.next is self.after for cell in cells)


def _take(
    table: NDArray[np.uint8], step: _Step, rules: Rules, spans: list[slice], pages: int
) -> Iterator[str]:
    """Change the table as recorded; yield what is odd about it."""
    if sum(span.stop - span.start for span in spans) != pages:
        yield f"{pages} pages from there are not all in the backend"
    if not step.legal(rules):
        yield (
            f"{step.kind.word} from {step.before.word} to {step.after.word} is against the rules "
            f"of {rules.profile}"
        )
    for span in spans:
        others = np.flatnonzero((table[span] & STATE_MASK) != step.before)
        if len(others):
            found = PageState(int(table[span][others[0]]) & STATE_MASK)
            yield f"{len(others)} pages were not {step.before.word}, the first was {found.word}"
        if step.kind is Kind.LOAD:
            table[span] = step.after | LAUNCH_FLAG
        elif step.kind is Kind.DISCARD or step.before is not step.after:
            table[span] = step.after
