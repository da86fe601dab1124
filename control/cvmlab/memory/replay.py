# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay a journal: compute the page-state table that its records lead to.

A journal that dropped records cannot be replayed; the ring's header says whether it did.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import CHANGING, Kind, standing
from cvmlab.memory.states import LAUNCH_FLAG, STATE_MASK, Event, PageState, RefusalCode, Rules


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """Record ``seq``, for the pages at ``gpa``, contradicts the records before it."""

    seq: int
    gpa: int
    text: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The table after the journal (with its flags), and the contradictions in the journal."""

    table: NDArray[np.uint8]
    discrepancies: tuple[Discrepancy, ...]


def replay(records: NDArray[np.void], rules: Rules, slots: Sequence[Slot], pages: int) -> Replay:
    """Run *records* (dtype RECORD, in order of seq) over a fresh table of *pages* pages.

    Each change must start from the page's state in the table and be allowed by the rules.
    """
    records = standing(records)
    slots = [*slots, *_without_address(slots)]
    table: NDArray[np.uint8] = np.zeros(pages, np.uint8)
    wrong: list[Discrepancy] = []
    # Most records are single pages accepted on first touch: these are handled in batches.
    single = (records["kind"] == Kind.ACCEPT) & (records["pages"] == 1)
    for batch in np.split(records, np.flatnonzero(np.diff(single)) + 1):
        if not _accept_all(table, batch, rules, slots):
            wrong += _one_by_one(table, batch, rules, slots)
    return Replay(table, tuple(wrong))


def _without_address(slots: Sequence[Slot]) -> Iterator[Slot]:
    """Yield the file ranges between slots: a PC's shadow RAM, which the journal has by offset."""
    ordered = sorted(slots, key=lambda slot: slot.offset)
    for before, after in pairwise(ordered):
        end = before.offset + before.size
        if end < after.offset:
            yield Slot(end, end, after.offset - end)


def _accept_all(
    table: NDArray[np.uint8], batch: NDArray[np.void], rules: Rules, slots: Sequence[Slot]
) -> bool:
    """Apply *batch* at once if it is single accepted pages without contradictions."""
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
        elif kind in CHANGING:
            step = _Step(kind, PageState(before), PageState(after))
            for text in _apply(table, step, rules, list(page_spans(slots, gpa, count)), count):
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
        """The events that make a record of this kind."""
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
        return any(cell.refusal is RefusalCode.OK and cell.next is self.after for cell in cells)


def _apply(
    table: NDArray[np.uint8], step: _Step, rules: Rules, spans: list[slice], pages: int
) -> Iterator[str]:
    """Change the table as recorded; yield contradictions."""
    if sum(span.stop - span.start for span in spans) != pages:
        yield f"the backend does not have all {pages} pages of the record"
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
