# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest fault was, and who made the page what it was.  Pure.

A record of a fault says how the guest addressed the page and in which state it was.  The journal
before it says who changed the page last.
"""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import (
    FLAG_ACCEPTING,
    FLAG_AS_PRIVATE,
    FLAG_AS_SHARED,
    FLAG_FETCH,
    FLAG_WALK,
    FLAG_WRITE,
    Kind,
    changed_pages,
    who,
)
from cvmlab.memory.states import PageState
from cvmlab.results.callers import NO_CALLERS, Callers
from cvmlab.results.result import GuestFault, LastChange
from cvmlab.results.summary import Records, Resolve, grouped


FIRST_GUEST_FAULTS = 16
_KEY = ("from", "flags", "rip", "stack", "page")


class FaultCase(StrEnum):
    """What was wrong.  A profile's row has the words of its specification for each."""

    PENDING = "use-before-acceptance"
    SHARED_AS_PRIVATE = "shared-page-used-as-private"
    PRIVATE_AS_SHARED = "private-page-used-as-shared"
    ACCEPTED_SHARED = "acceptance-of-a-shared-page"
    POISONED = "poisoned-page"


_SAID: Mapping[FaultCase, str] = {
    FaultCase.PENDING: "the guest touched page {page} before it had accepted it",
    FaultCase.SHARED_AS_PRIVATE: "the guest used page {page} by its private address",
    FaultCase.PRIVATE_AS_SHARED: "the guest used page {page} by its shared address",
    FaultCase.ACCEPTED_SHARED: "the guest accepted page {page}, which is not private",
    FaultCase.POISONED: "the guest touched page {page}, which the host had reported bad",
}
NO_WORDS: Mapping[str, str] = {}


def case_of(record: np.void) -> FaultCase:
    """Return what *record*, of a guest fault, is."""
    flags, state = int(record["flags"]), PageState(int(record["from"]))
    if state is PageState.POISONED:
        return FaultCase.POISONED
    if flags & FLAG_ACCEPTING:
        return FaultCase.ACCEPTED_SHARED
    if flags & FLAG_AS_SHARED:
        return FaultCase.PRIVATE_AS_SHARED
    if state is PageState.SHARED and flags & FLAG_AS_PRIVATE:
        return FaultCase.SHARED_AS_PRIVATE
    return FaultCase.PENDING


def guest_faults(
    records: Records,
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
    *,
    words: Mapping[str, str] = NO_WORDS,
    devices: Mapping[int, str] | None = None,
    limit: int = FIRST_GUEST_FAULTS,
) -> tuple[GuestFault, ...]:
    """Return the first *limit* guest faults; those alike (page, access, function) are one.

    *words* say each FaultCase in the words of a specification.
    """
    faults = records[records["kind"] == Kind.GUEST_FAULT]
    changes = records[changed_pages(records) | (records["kind"] == Kind.RESET)]
    return tuple(
        _fault(first, count, changes, resolve, callers, words, devices)
        for first, count in grouped(faults, _KEY, limit)
    )


def _fault(
    record: np.void,
    count: int,
    changes: Records,
    resolve: Resolve,
    callers: Callers,
    words: Mapping[str, str],
    devices: Mapping[int, str] | None,
) -> GuestFault:
    case, stack, rip = case_of(record), int(record["stack"]), int(record["rip"])
    page = int(record["gpa"]) & ~(PAGE_SIZE - 1)
    return GuestFault(
        case=case,
        gpa=page,
        state=PageState(int(record["from"])).word,
        access=_access(int(record["flags"])),
        walk=bool(record["flags"] & FLAG_WALK),
        rip=rip or None,
        symbol=callers.blamed(stack, resolve(rip) if rip else None),
        callers=callers.above(stack),
        specification=words.get(case),
        last_change=_last_change(changes, page, int(record["seq"]), resolve, callers, devices),
        record=int(record["seq"]),
        count=count,
    )


def _access(flags: int) -> str:
    if flags & FLAG_ACCEPTING:
        return "accept"
    return "fetch" if flags & FLAG_FETCH else "write" if flags & FLAG_WRITE else "read"


def _last_change(
    changes: Records,
    page: int,
    before: int,
    resolve: Resolve,
    callers: Callers,
    devices: Mapping[int, str] | None,
) -> LastChange | None:
    """Return who changed *page* last before record number *before*; None: nobody, or a reset."""
    earlier = changes[changes["seq"] < before]
    chosen = np.flatnonzero(_covers(earlier, page) | (earlier["kind"] == Kind.RESET))
    if not len(chosen) or earlier[chosen[-1]]["kind"] == Kind.RESET:
        return None
    record = earlier[chosen[-1]]
    rip, stack = int(record["rip"]), int(record["stack"])
    return LastChange(
        what=Kind(int(record["kind"])).word,
        to=PageState(int(record["to"])).word,
        actor=who(record, devices),
        seconds=round(int(record["vtime_ns"]) / 1e9, 6),
        record=int(record["seq"]),
        symbol=callers.blamed(stack, resolve(rip) if rip else None),
        callers=callers.above(stack),
    )


def _covers(records: Records, page: int) -> npt.NDArray[np.bool_]:
    end = records["gpa"] + records["pages"].astype(np.uint64) * np.uint64(PAGE_SIZE)
    covered: npt.NDArray[np.bool_] = (records["gpa"] <= np.uint64(page)) & (end > np.uint64(page))
    return covered


def say(fault: GuestFault) -> str:
    """Say in a sentence what *fault* was: page, state, function, last change."""
    page = f"{fault.gpa:#x} ({fault.state})"
    text = _SAID[FaultCase(fault.case)].format(page=page)
    where = fault.symbol or (f"{fault.rip:#x}" if fault.rip else None)
    if where is not None and fault.walk:
        text += f", in a page-table walk for {where}"
    elif where is not None:
        text += f", in {where}"
    elif fault.walk:
        text += ", in a page-table walk"
    if fault.specification is not None:
        text += f" [{fault.specification}]"
    return f"{text}; {say_change(fault.last_change)}" if fault.last_change else text


def say_change(change: LastChange) -> str:
    """Say who changed a page last: ``made shared by vcpu 0 in f+0x1 at 3.125 s (record 12)``."""
    where = f" in {change.symbol}" if change.symbol else ""
    return f"made {change.to} by {change.actor}{where} at {change.seconds:.3f} s (record {change.record})"


def last_fault(
    records: Records,
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
    *,
    of_bad_page: bool = False,
    words: Mapping[str, str] = NO_WORDS,
    devices: Mapping[int, str] | None = None,
) -> str | None:
    """Say what the last fault was, of a bad page or of any other; None if there is none."""
    is_bad = records["from"] == PageState.POISONED
    at = np.flatnonzero((records["kind"] == Kind.GUEST_FAULT) & (is_bad == of_bad_page))
    if not len(at):
        return None
    changes = records[: at[-1]]
    changes = changes[changed_pages(changes) | (changes["kind"] == Kind.RESET)]
    return say(_fault(records[at[-1]], 1, changes, resolve, callers, words, devices))
