# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal gives the table back, and says where it cannot be right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import RECORD, Kind
from cvmlab.memory.replay import page_spans, replay
from cvmlab.memory.states import LAUNCH_FLAG, STATE_MASK, Change, Event, Model, PageState, profiles


SPLIT = profiles()["sw-protected"]
PAGES = 16
# RAM around a hole, as on a PC: 8 pages from 0, 8 from 0x100000.
HIGH = 0x100000
SLOTS = (Slot(0, 0, 8 * PAGE_SIZE), Slot(HIGH, 8 * PAGE_SIZE, 8 * PAGE_SIZE))
KIND_OF = {
    Event.ACCEPT: Kind.ACCEPT,
    Event.TO_SHARED: Kind.CONVERT,
    Event.TO_PRIVATE: Kind.CONVERT,
    Event.DISCARD: Kind.DISCARD,
    Event.POISON: Kind.POISON,
    Event.LOAD: Kind.LOAD,
}


@dataclass(frozen=True, slots=True)
class Said:
    kind: Kind
    gpa: int = 0
    pages: int = 1
    before: PageState = PageState.PENDING
    after: PageState = PageState.PENDING


def journal(said: Sequence[Said]) -> NDArray[np.void]:
    records = np.zeros(len(said), RECORD)
    for index, one in enumerate(said):
        row = records[index]
        row["seq"], row["kind"], row["gpa"] = index + 1, one.kind, one.gpa
        row["pages"], row["from"], row["to"] = one.pages, one.before, one.after
    return records


def texts(*said: Said) -> list[str]:
    return [found.text for found in replay(journal(said), SPLIT, SLOTS, PAGES).discrepancies]


def gpa_of(page: int) -> int:
    return page * PAGE_SIZE if page < 8 else HIGH + (page - 8) * PAGE_SIZE


def said_of(event: Event, change: Change) -> list[Said]:
    """Record as the plugin does: a run that leaves a slot is two records."""
    cuts = [change.first, *[8] * (change.first < 8 < change.first + change.count)]
    ends = [*cuts[1:], change.first + change.count]
    kind, before, after = KIND_OF[event], change.before, change.after
    return [
        Said(kind, gpa_of(low), high - low, before, after)
        for low, high in zip(cuts, ends, strict=True)
    ]


STEPS = st.tuples(st.sampled_from(list(KIND_OF)), st.integers(0, PAGES - 1), st.integers(1, PAGES))


@given(st.lists(st.one_of(STEPS, st.none(), st.integers(0, PAGES - 1)), max_size=30))
def test_the_journal_of_any_history_replays_to_its_table(
    history: list[tuple[Event, int, int] | int | None],
) -> None:
    model, said = Model(SPLIT, PAGES), list[Said]()
    for step in history:
        if step is None:
            model.reset()
            said.append(Said(Kind.RESET))
        elif isinstance(step, int):
            if model.touch(step) is PageState.PENDING:
                said.append(Said(Kind.ACCEPT, gpa_of(step), after=PageState.PRIVATE))
        else:
            event, first, count = step
            changes = model.apply(first, min(count, PAGES - first), event)
            if isinstance(changes, tuple):
                said += [one for change in changes for one in said_of(event, change)]
    outcome = replay(journal(said), SPLIT, SLOTS, PAGES)
    assert outcome.discrepancies == ()
    assert (outcome.table == model.table).all()


ACCEPT_OF_PAGE = [Said(Kind.ACCEPT, gpa_of(page), after=PageState.PRIVATE) for page in range(PAGES)]


def test_a_crowd_of_single_acceptances_lands_where_it_belongs() -> None:
    outcome = replay(journal(ACCEPT_OF_PAGE[::-1]), SPLIT, SLOTS, PAGES)
    assert outcome.discrepancies == ()
    assert (outcome.table == PageState.PRIVATE).all()


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (ACCEPT_OF_PAGE[3], "1 pages were not pending, the first was private"),
        (
            Said(Kind.ACCEPT, HIGH - 0x1000, after=PageState.PRIVATE),
            "the backend does not have all 1 pages of the record",
        ),
        (
            Said(Kind.ACCEPT, gpa_of(15), after=PageState.SHARED),
            "accept from pending to shared is against the rules of sw-protected",
        ),
        (
            Said(Kind.ACCEPT, gpa_of(15), 1, PageState.SHARED, PageState.PRIVATE),
            "accept from shared to private is against the rules of sw-protected",
        ),
    ],
)
def test_one_odd_acceptance_in_a_crowd_is_told(odd: Said, text: str) -> None:
    outcome = replay(journal([*ACCEPT_OF_PAGE[:15], odd]), SPLIT, SLOTS, PAGES)
    assert (outcome.discrepancies[0].seq, outcome.discrepancies[0].text) == (16, text)
    assert (outcome.table[:15] == PageState.PRIVATE).all()


def test_an_empty_journal_is_a_fresh_table() -> None:
    assert not replay(journal([]), SPLIT, SLOTS, PAGES).table.any()


def test_records_of_no_change_are_passed_over() -> None:
    outcome = replay(journal([Said(Kind.HOST_FAULT), Said(Kind.PHASE)]), SPLIT, SLOTS, PAGES)
    assert not outcome.table.any()
    assert outcome.discrepancies == ()


def test_a_record_from_another_state_than_the_tables_is_told() -> None:
    convert = Said(Kind.CONVERT, 0, 2, PageState.PRIVATE, PageState.SHARED)
    accept = Said(Kind.ACCEPT, 0x1000, 1, PageState.PENDING, PageState.PRIVATE)
    outcome = replay(journal([accept, convert]), SPLIT, SLOTS, PAGES)
    assert [(odd.seq, odd.gpa, odd.text) for odd in outcome.discrepancies] == [
        (2, 0, "1 pages were not private, the first was pending")
    ]
    assert (outcome.table[:3] & STATE_MASK).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (Kind.ACCEPT, PageState.PENDING, PageState.SHARED),
        (Kind.CONVERT, PageState.PENDING, PageState.PRIVATE),
        (Kind.CONVERT, PageState.PENDING, PageState.POISONED),
        (Kind.LOAD, PageState.PENDING, PageState.PENDING),
    ],
)
def test_a_step_the_rules_do_not_allow_is_told(
    kind: Kind, before: PageState, after: PageState
) -> None:
    assert texts(Said(kind, 0, 1, before, after)) == [
        f"{kind.word} from {before.word} to {after.word} is against the rules of sw-protected"
    ]


def test_pages_outside_the_slots_are_told() -> None:
    convert = Said(Kind.CONVERT, 0x7000, 2, PageState.PENDING, PageState.SHARED)
    assert texts(convert) == ["the backend does not have all 2 pages of the record"]


def test_loading_leaves_its_flag() -> None:
    load = Said(Kind.LOAD, HIGH, 1, PageState.PENDING, PageState.PRIVATE)
    table = replay(journal([load]), SPLIT, SLOTS, PAGES).table
    assert table[8] == PageState.PRIVATE | LAUNCH_FLAG
    assert np.count_nonzero(table) == 1


def test_spans_follow_the_slots_in_order_of_gpa() -> None:
    side_by_side = (Slot(0x2000, 0, 0x1000), Slot(0, 0x5000, 0x2000))
    assert list(page_spans(side_by_side, 0x1000, 2)) == [slice(6, 7), slice(0, 1)]
