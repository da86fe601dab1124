# SPDX-License-Identifier: GPL-2.0-or-later
"""Phases and summaries of journals that are written out here, record by record."""

from typing import Any

import numpy as np
import numpy.typing as npt

from cvmlab.memory.records import FLAG_WRITE, NO_DEVICE, RECORD, Actor, Kind, Phase, Verdict
from cvmlab.memory.states import PageState, RefusalCode
from cvmlab.results import phases, summary
from cvmlab.results.counts import PhaseCounters


S = 1_000_000_000
RIP = 0xFFFF_FFFF_8100_0000


def journal(*rows: dict[str, Any]) -> npt.NDArray[np.void]:
    records = np.zeros(len(rows), RECORD)
    for number, row in enumerate(rows):
        fields = {"seq": number + 1, "device": NO_DEVICE, "pages": 1, **row}
        for name, value in fields.items():
            records[number][name] = value
    return records


def at(seconds: float, **fields: Any) -> dict[str, Any]:
    """A record at *seconds* of the guest's clock; the host's runs twice as fast."""
    return {"vtime_ns": int(seconds * S), "htime_ns": int(100 * S + 2 * seconds * S), **fields}


def begin(seconds: float, phase: Phase, rip: int = 0) -> dict[str, Any]:
    return at(seconds, kind=Kind.PHASE, flags=phase, pages=0, rip=rip)


def accept(seconds: float, pages: int, **fields: Any) -> dict[str, Any]:
    return at(seconds, kind=Kind.ACCEPT, pages=pages, to=PageState.PRIVATE, **fields)


def convert(seconds: float, pages: int, before: PageState, after: PageState, **fields: Any) -> Any:
    return at(seconds, kind=Kind.CONVERT, pages=pages, **{"from": before, "to": after}, **fields)


def fault(seconds: float, gpa: int, device: int, *, write: bool, rip: int = 0) -> dict[str, Any]:
    return at(
        seconds,
        kind=Kind.HOST_FAULT,
        actor=Actor.DEVICE,
        device=device,
        gpa=gpa,
        flags=FLAG_WRITE if write else 0,
        rip=rip,
        verdict=Verdict.DENY,
        **{"from": PageState.PRIVATE, "to": PageState.PRIVATE},
    )


def test_phases_are_cut_at_their_marks_and_counted_apart() -> None:
    records = journal(
        begin(0, Phase.LAUNCH),
        at(0, kind=Kind.LOAD, pages=50, to=PageState.PRIVATE),
        begin(0, Phase.FIRMWARE),
        accept(0.5, 10),
        begin(1.0, Phase.KERNEL),
        accept(1.5, 20),
        accept(2.0, 5),
        convert(2.5, 8, PageState.PRIVATE, PageState.SHARED),
        convert(2.5, 8, PageState.SHARED, PageState.SHARED),
        convert(3.0, 3, PageState.SHARED, PageState.PRIVATE),
        fault(3.5, 0x1000, 0, write=True),
        begin(4.0, Phase.USER),
        accept(4.5, 1),
    )

    found = phases.phases(records)

    assert [(item.name, item.seconds, item.host_seconds) for item in found] == [
        ("launch", 0.0, 0.0),
        ("firmware", 1.0, 2.0),
        ("kernel", 3.0, 6.0),
        ("user", 0.5, 1.0),
    ]
    assert [item.counters for item in found] == [
        PhaseCounters(),
        PhaseCounters(accepted=10),
        PhaseCounters(accepted=25, to_shared=8, to_private=3, host_faults=1),
        PhaseCounters(accepted=1),
    ]


def test_the_last_phase_goes_on_until_the_guest_stopped() -> None:
    records = journal(begin(0, Phase.FIRMWARE), begin(1.0, Phase.KERNEL))

    found = phases.phases(records, end_htime_ns=102 * S + 5 * S)

    assert (found[-1].seconds, found[-1].host_seconds) == (5.0, 5.0)


def test_records_before_the_first_mark_are_the_launch() -> None:
    records = journal(accept(0, 1), begin(1.0, Phase.FIRMWARE))

    assert [item.name for item in phases.phases(records)] == ["launch", "firmware"]


def test_a_reboot_lists_the_phases_again_and_no_time_is_negative() -> None:
    records = journal(
        begin(5.0, Phase.KERNEL), at(6.0, kind=Kind.RESET), begin(0.0, Phase.FIRMWARE)
    )

    found = phases.phases(records)

    assert [item.name for item in found] == ["kernel", "firmware"]
    assert found[0].seconds == 0.0


def test_an_empty_journal_has_no_phases() -> None:
    assert phases.phases(journal()) == ()


def test_the_instruction_that_began_a_phase_is_known_if_recorded() -> None:
    records = journal(begin(0, Phase.FIRMWARE), begin(1, Phase.KERNEL, rip=RIP))

    assert phases.first_rip(records, Phase.KERNEL) == RIP
    assert phases.first_rip(records, Phase.FIRMWARE) is None
    assert phases.first_rip(records, Phase.USER) is None


def resolve(address: int) -> str | None:
    return f"work+{address - RIP:#x}" if address >= RIP else None


def test_alike_faults_are_one_with_a_count_in_order_of_the_first() -> None:
    records = journal(
        fault(1, 0x5010, 1, write=True, rip=RIP + 4),
        accept(1, 1),
        fault(1, 0x1000, 0, write=False, rip=0x1234),
        fault(1, 0x5020, 1, write=True, rip=RIP + 8),
        fault(1, 0x5000, 1, write=False),
    )

    found = summary.faults(records, {1: "disk0"}, resolve)

    assert [(item.device, item.gpa, item.write, item.count) for item in found] == [
        ("disk0", 0x5010, True, 2),
        ("#0", 0x1000, False, 1),
        ("disk0", 0x5000, False, 1),
    ]
    assert [item.symbol for item in found] == ["work+0x4", None, None]
    assert [item.rip for item in found] == [RIP + 4, 0x1234, None]
    assert {(item.actor, item.state, item.verdict) for item in found} == {
        ("device", "private", "deny")
    }
    assert summary.faults(records, {}, resolve, limit=1)[0].gpa == 0x5010
    assert summary.faults(journal(), {}, resolve) == ()


def test_conversions_are_summed_by_actor_direction_and_function() -> None:
    private, shared = PageState.PRIVATE, PageState.SHARED
    records = journal(
        convert(1, 1, private, shared, actor=Actor.DEVICE, device=3),
        convert(1, 512, private, shared, rip=RIP),
        convert(1, 512, private, shared, rip=RIP + 4),
        convert(1, 7, shared, private, actor=Actor.HOST),
        convert(1, 9, shared, shared, actor=Actor.HOST),
    )

    found = summary.conversions(records, {3: "net0"}, resolve)

    assert [
        (item.actor, item.device, item.to, item.symbol, item.pages, item.requests) for item in found
    ] == [
        ("vcpu", None, "shared", "work", 1024, 2),
        ("host", None, "private", None, 7, 1),
        ("device", "net0", "shared", None, 1, 1),
    ]
    assert summary.conversions(journal(), {}, resolve) == ()


def test_refused_requests_are_told_by_reason_and_function() -> None:
    records = journal(
        at(1, kind=Kind.VIOLATION, refusal=RefusalCode.BY_POLICY, gpa=0x5000, pages=2, rip=RIP),
        at(2, kind=Kind.VIOLATION, refusal=RefusalCode.BY_POLICY, gpa=0x9000, pages=1, rip=RIP),
        at(3, kind=Kind.VIOLATION, refusal=RefusalCode.OUT_OF_RANGE, gpa=0x1000, pages=1, rip=RIP),
    )
    found = summary.refused(records, resolve)
    assert [(one.reason, one.symbol, one.gpa, one.pages, one.requests) for one in found] == [
        ("by-policy", "work", 0x5000, 2, 2),
        ("out-of-range", "work", 0x1000, 1, 1),
    ]


def test_a_range_counts_as_the_largest_pages_that_fit_in_it() -> None:
    private, shared, pending = PageState.PRIVATE, PageState.SHARED, PageState.PENDING
    large, huge = 512, 512 * 512
    records = journal(
        begin(0, Phase.FIRMWARE),
        accept(1, 1),
        accept(1, large, gpa=large << 12),
        begin(2, Phase.EFI_STUB),
        convert(3, large, private, shared, gpa=0x1000),
        begin(4, Phase.KERNEL),
        accept(5, huge, gpa=huge << 12, rip=RIP),
        convert(6, 3 * large + 1, private, shared, gpa=large << 12, rip=RIP),
        convert(6, 1, shared, pending, rip=RIP + 4),
        convert(6, 1, shared, shared),
        begin(0, Phase.FIRMWARE),
        accept(1, 1),
    )
    found = summary.functions(records, resolve)
    assert [
        (one.phase, one.change, one.symbol, one.of_4k, one.of_2m, one.of_1g, one.requests)
        for one in found
    ] == [
        ("firmware", "accepted", None, 2, 1, 0, 3),
        ("efi-stub", "to_shared", None, large, 0, 0, 1),
        ("kernel", "accepted", "work", 0, 0, 1, 1),
        ("kernel", "to_shared", "work", 1, 3, 0, 1),
        ("kernel", "to_private", "work", 1, 0, 0, 1),
    ]
