# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest fault says what it was, in the words of the technology, and who changed the page last."""

import numpy as np
import pytest

from cvmlab.memory.records import (
    FLAG_ACCEPTING,
    FLAG_AS_PRIVATE,
    FLAG_AS_SHARED,
    FLAG_FETCH,
    FLAG_WALK,
    FLAG_WRITE,
    Actor,
    Kind,
)
from cvmlab.memory.states import PageState
from cvmlab.profiles.profile_rows import PROFILES
from cvmlab.results import guest_faults
from cvmlab.results.callers import Callers, NamedChain
from cvmlab.results.guest_faults import FaultCase, case_of, last_fault, say
from tests.fakes import journals as make


PENDING, PRIVATE, SHARED = PageState.PENDING, PageState.PRIVATE, PageState.SHARED
TOLD = "the guest touched page 0x20000000 (pending) before it had accepted it"
TDX = dict(PROFILES["tdx"].fault_words)


def fault(state: PageState, flags: int = 0, gpa: int = 0x2000_0123, **fields: int) -> make.Records:
    return make.row(Kind.GUEST_FAULT, 20, gpa=gpa, flags=flags, before=state, after=state, **fields)


def test_an_early_use_names_page_state_and_function() -> None:
    records = make.journal(fault(PENDING, gpa=0x1000), fault(PENDING, rip=0x1000))
    assert last_fault(records, {0x1000: "probe+0x0"}.get) == f"{TOLD}, in probe+0x0"
    assert last_fault(records, lambda _: None) == f"{TOLD}, in 0x1000"
    poisoned = records.copy()
    poisoned["from"] = PageState.POISONED
    assert last_fault(poisoned, lambda _: None) is None
    assert last_fault(records, lambda _: None, of_bad_page=True) is None
    bad = last_fault(poisoned, lambda _: None, of_bad_page=True)
    assert (
        bad
        == "the guest touched page 0x20000000 (poisoned), which the host had reported bad, in 0x1000"
    )
    assert last_fault(records[np.zeros(2, bool)], lambda _: None) is None


@pytest.mark.fault("V1")
@pytest.mark.parametrize(
    ("state", "flags", "case", "said"),
    [
        (PENDING, FLAG_AS_PRIVATE, FaultCase.PENDING, "before it had accepted it"),
        (SHARED, FLAG_AS_PRIVATE | FLAG_WRITE, FaultCase.SHARED_AS_PRIVATE, "its private address"),
        (PRIVATE, FLAG_AS_SHARED, FaultCase.PRIVATE_AS_SHARED, "its shared address"),
        (PENDING, FLAG_AS_SHARED, FaultCase.PRIVATE_AS_SHARED, "its shared address"),
        (SHARED, FLAG_ACCEPTING | FLAG_AS_PRIVATE, FaultCase.ACCEPTED_SHARED, "accepted page"),
        (PageState.POISONED, FLAG_AS_PRIVATE, FaultCase.POISONED, "reported bad"),
        (PENDING, 0, FaultCase.PENDING, "before it had accepted it"),  # a profile without a bit
    ],
)
def test_kinds_of_faults_are_told_apart(
    state: PageState, flags: int, case: FaultCase, said: str
) -> None:
    records = make.journal(fault(state, flags))
    assert case_of(records[0]) is case
    (found,) = guest_faults.guest_faults(records, lambda _: None, words=TDX)
    assert said in say(found)
    assert found.specification == TDX.get(case)
    assert case is FaultCase.POISONED or f"[{TDX[case]}]" in say(found)


@pytest.mark.fault("V1")
def test_a_fault_says_who_changed_the_page_last() -> None:
    convert = {"gpa": 0x2000_0000, "pages": 4, "rip": 0x2000, "stack": 7, "vcpu": 1}
    records = make.journal(
        make.row(Kind.CONVERT, 1_000_000_000, **convert, before=PRIVATE, after=SHARED),
        make.row(Kind.CONVERT, 2_500_000_000, **convert, before=SHARED, after=PENDING),
        make.row(Kind.ACCEPT, 3_000_000_000, gpa=0x2000_4000, before=PENDING, after=PRIVATE),
        fault(PENDING, FLAG_AS_PRIVATE),
        make.row(Kind.CONVERT, 4_000_000_000, **convert, before=PENDING, after=SHARED),
    )
    chains = {7: NamedChain(("__tdcall+0x1", "free_dma+0x8", "remove+0x2"))}
    callers = Callers(chains, ("__tdcall*",))

    (found,) = guest_faults.guest_faults(records, lambda _: None, callers)

    change = found.last_change
    assert change is not None
    assert (change.record, change.to, change.symbol) == (2, "pending", "free_dma+0x8")
    assert change.callers == ("remove",)
    assert say(found) == (f"{TOLD}; made pending by vcpu 1 in free_dma+0x8 at 2.500 s (record 2)")
    told = last_fault(records, lambda _: None, callers)
    assert told == say(found)


def test_a_page_that_nobody_changed_has_no_last_change() -> None:
    before = make.row(Kind.ACCEPT, 1, gpa=0x2000_0000, after=PRIVATE)
    records = make.journal(
        before, make.row(Kind.RESET, 2, pages=0, actor=Actor.HOST), fault(PENDING)
    )
    (found,) = guest_faults.guest_faults(records, lambda _: None)
    assert found.last_change is None


@pytest.mark.fault("V1")
def test_a_page_table_walk_is_said_to_be_one() -> None:
    records = make.journal(
        fault(SHARED, FLAG_AS_PRIVATE | FLAG_WALK, rip=0x1000), fault(PENDING, FLAG_WALK)
    )
    first, second = guest_faults.guest_faults(records, {0x1000: "memcpy+0x4"}.get)
    assert first.walk
    assert say(first).endswith(", in a page-table walk for memcpy+0x4")
    assert say(second).endswith(", in a page-table walk")


def test_faults_alike_are_one() -> None:
    records = make.journal(*[fault(PENDING, FLAG_FETCH, rip=0x1000)] * 5, fault(PENDING))
    found = guest_faults.guest_faults(records, lambda _: None)
    assert [(one.count, one.access) for one in found] == [(5, "fetch"), (1, "read")]
