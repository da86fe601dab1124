# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal over guest time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cvmlab.memory.records import Kind, Phase
from cvmlab.memory.states import PageState
from cvmlab.results.timeline import (
    ALL_PENDING,
    Names,
    changes,
    functions,
    guest_seconds,
    name_functions,
    pages_by_state,
    phase_spans,
    series,
)
from tests.fakes import journals as make


def test_phases_are_spans_of_guest_time() -> None:
    records = make.small()
    spans = phase_spans(records, guest_seconds(records))
    assert [(span.name, span.start, span.end) for span in spans] == [
        ("firmware", 0.0, 1.0), ("kernel", 1.0, 2.0), ("user", 2.0, 3.0),
    ]  # fmt: skip


def test_what_comes_before_the_first_mark_is_the_launch() -> None:
    records = make.journal(make.accepted(0, 3, 0), make.phase(Phase.KERNEL, 10**9))
    assert [span.name for span in phase_spans(records, guest_seconds(records))] == [
        "launch", "kernel",
    ]  # fmt: skip


def test_an_empty_journal_has_nothing_in_it() -> None:
    records = make.journal()
    seconds = guest_seconds(records)
    assert phase_spans(records, seconds) == ()
    assert series(records, seconds, 4).counts["accepted"].tolist() == [0, 0, 0, 0]
    assert len(changes(records, seconds)) == 0
    assert functions(records, make.NAMES) == ()


def test_the_clock_goes_on_when_the_guest_is_reset() -> None:
    records = make.journal(
        make.accepted(0, 2, 5_000_000_000, step_ns=10),
        make.row(Kind.RESET, 0, pages=0),
        make.accepted(0, 1, 1_000_000_000),
    )
    assert guest_seconds(records).tolist() == [5.0, 5.00000001, 5.00000001, 6.00000001]


@given(st.lists(st.integers(0, 1 << 40), max_size=40))
def test_the_clock_never_goes_back(times: list[int]) -> None:
    rows = [make.row(Kind.ACCEPT, time) for time in times]
    assert (np.diff(guest_seconds(make.journal(*rows))) >= 0).all()


def test_series_add_up_to_the_counters() -> None:
    records = make.small()
    found = series(records, guest_seconds(records), 30)
    assert found.counts["accepted"].sum() == 250
    assert found.counts["to_shared"].sum() == 12
    assert found.counts["to_private"].sum() == 8
    assert found.counts["host_faults"].sum() == 2
    assert (
        found.counts["host_faults"][19] == found.counts["host_faults"][29] == 1
    )  # just before 2 s, and at the end


def test_levels_after_each_record_end_at_the_table() -> None:
    pages = pages_by_state(make.small())
    assert pages[-1].tolist() == [-266, 262, 4, 0]
    assert pages[-1].sum() == 0


def test_levels_start_again_after_a_reset() -> None:
    records = make.journal(
        make.accepted(0, 5, 0), make.row(Kind.RESET, 9, pages=0), make.accepted(0, 2, 10)
    )
    assert pages_by_state(records)[:, PageState.PRIVATE].tolist() == [1, 2, 3, 4, 5, 0, 1, 2]


def test_neighbours_become_one_change() -> None:
    records = make.journal(
        make.accepted(10, 5, 0, step_ns=10),
        make.accepted(20, 2, 100, step_ns=10),
        make.row(Kind.RESET, 200, pages=0),
        make.accepted(22, 1, 300),
    )
    found = changes(records, guest_seconds(records))
    assert found[["page", "count", "state"]].tolist() == [
        (10, 5, 1), (20, 2, 1), (0, 0, ALL_PENDING), (22, 1, 1),
    ]  # fmt: skip


def test_functions_are_summed_over_their_instructions() -> None:
    first, second = functions(make.small(), make.NAMES)
    assert (first.name, first.counts["to_shared"], first.counts["to_private"]) == (
        "set_memory_decrypted",
        12,
        8,
    )
    assert (second.name, second.counts["host_faults"]) == ("iowrite16", 1)
    unknown = functions(make.small(), Names())
    assert unknown[0].name.startswith("0xffffffff81000")


def test_names_are_asked_for_once_an_instruction() -> None:
    asked: list[int] = []

    def resolve(rip: int) -> str | None:
        asked.append(rip)
        return "f+0x1" if rip == make.KERNEL else None

    assert name_functions(make.small(), resolve) == {make.KERNEL: "f+0x1"}
    assert len(asked) == 3
