# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of measures makes sense, and what is made of its rows."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from cvmlab.memory.counting import RunningCount, amounts, count
from cvmlab.memory.measures import MEASURES, Measure, RecordRule, Unit
from cvmlab.memory.records import EVENT_WORDS, Actor, Kind, Verdict
from cvmlab.memory.states import COUNTED_AS, COUNTER_SLOTS, PageState
from cvmlab.memory.table import PageCounts
from cvmlab.results.result import PagesByState
from cvmlab.vm.operations import PagesReply
from tests.fakes import journals as make


WORDS = [state.word for state in PageState]


def test_rows_have_names_and_slots_of_their_own() -> None:
    names = [row.name for row in MEASURES]
    assert len(set(names)) == len(names)
    assert sorted(MEASURES.slots.values()) == list(range(len(MEASURES.slots)))
    assert len(MEASURES.slots) <= COUNTER_SLOTS
    assert set(COUNTED_AS.values()) <= set(MEASURES.slots)


@pytest.mark.parametrize("row", MEASURES.rows, ids=lambda row: row.name)
def test_a_row_can_be_counted(row: Measure) -> None:
    assert row.name.isidentifier()
    assert [row.slot is not None, row.field is not None].count(True) <= 1
    assert row.is_live or row.rule is not None
    if row.per_phase:
        assert row.rule is not None
    if row.rule is not None:
        assert row.rule.kind in EVENT_WORDS
        assert set(row.rule.to) <= set(WORDS)
    assert row.per_phase or not (row.always or row.baseline)


def test_budgets_are_by_word_and_may_limit_several_measures() -> None:
    limited = {
        budget.word: [row.name for row in MEASURES.limited_by(budget)]
        for budget in MEASURES.budgets
    }
    assert limited == {
        "accepts": ["accepted"],
        "conversions": ["to_shared", "to_private"],
        "faults": ["host_faults"],
    }
    options = [(budget.option, budget.parameter) for budget in MEASURES.budgets]
    assert options[0] == ("--max-faults", "max_faults")  # its verdict comes first


def test_the_table_needs_no_numpy() -> None:
    code = "import cvmlab.memory.measures, sys; assert not {'numpy', 'msgspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_pages_by_state_have_a_field_for_each_state() -> None:
    fields = [field.name for field in msgspec.structs.fields(PagesByState)]
    assert fields == WORDS
    assert [field.name for field in msgspec.structs.fields(PagesReply)] == WORDS
    assert list(PageCounts.__dataclass_fields__) == WORDS


def test_a_record_adds_its_pages_or_one_event() -> None:
    records = make.journal(
        make.accepted(0, 2, 0),
        make.converted(0, 8, 5),
        make.row(Kind.CONVERT, 6, pages=3, before=PageState.SHARED, after=PageState.SHARED),
        make.fault(0x5000, 7),
    )
    added = {row.name: one.tolist() for row, one in amounts(records, MEASURES.per_phase)}
    assert added["accepted"] == [1, 1, 0, 0, 0]
    assert added["to_shared"] == [0, 0, 8, 0, 0]
    assert added["to_private"] == [0, 0, 0, 0, 0]
    assert added["host_faults"] == [0, 0, 0, 0, 1]


def test_a_conversion_back_may_leave_a_page_pending() -> None:
    back = make.row(
        Kind.CONVERT, 6, pages=3, before=PageState.SHARED, after=PageState.PENDING
    )  # fmt: skip
    assert count(make.journal(back), MEASURES)["to_private"] == 3


def test_a_row_without_a_rule_counts_no_record() -> None:
    assert count(make.small(), MEASURES)["conversions"] == 0


def test_a_journal_can_be_counted_piece_by_piece() -> None:
    records, running = make.small(), RunningCount(MEASURES)
    for piece in np.array_split(records, 7):
        running.add(piece)
    assert running.counts == count(records, MEASURES)
    assert running.counts["accepted"] == 250


def test_a_row_is_shown_always_or_when_there_is_something_to_show() -> None:
    rare = Measure(
        name="rare", label="rare", one="rare", many="rare", help="rare", unit=Unit.EVENTS,
        rule=RecordRule(kind="policy"), per_phase=True,
    )  # fmt: skip
    table = MEASURES.with_rows(rare)
    always = [row.name for row in table.shown()]
    assert always == ["accepted", "to_shared", "to_private", "host_faults"]
    assert table.shown({"rare": 0}, {"rare": 1})[-1] is rare
    assert rare.say(2) == "2 rare"


def test_an_allowed_access_is_told_from_a_fault_by_its_verdict_alone() -> None:
    allowed = make.fault(0x5000, 7)
    allowed["verdict"], allowed["actor"] = Verdict.ALLOW, Actor.GDB
    counts = count(make.journal(allowed, make.fault(0x6000, 8)), MEASURES)
    assert (counts["host_faults"], counts["allowed_accesses"]) == (1, 1)
