# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal over guest time, from which trace and report are drawn.  Pure.

A guest can make a million records, so everything here is arrays; only groups become objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from cvmlab.memory.counting import amounts
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import Kind, Phase, changed_pages
from cvmlab.memory.states import PageState
from cvmlab.results.callers import Callers, NamedChain, function_of


Records = npt.NDArray[np.void]
Seconds = npt.NDArray[np.float64]

ALL_PENDING = 255  # the state in a Change that stands for a reset of the guest
CHANGE = np.dtype([("time", "<f4"), ("page", "<u4"), ("count", "<u4"), ("state", "u1")])
_NS = 1e9
_MERGE_S = 0.001  # changes so near in time are one step of the picture


class Names(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What the numbers in a journal stand for; ``names.json`` of a run folder."""

    devices: dict[int, str] = {}
    functions: dict[int, str] = {}  # instruction address -> function+offset
    chains: dict[int, NamedChain] = {}  # number of a stack window -> who called
    thin: tuple[str, ...] = ()  # functions that are not blamed, see callers.py
    slots: tuple[Slot, ...] = ()

    @cached_property
    def callers(self) -> Callers:
        """Who called, for each record that has a window."""
        return Callers(self.chains, self.thin)


def name_functions(
    records: Records, resolve: Callable[[int], str | None], *, limit: int = 50_000
) -> dict[int, str]:
    """Name the instructions of *records*, at most *limit* of them."""
    rips = np.unique(records["rip"])[:limit].tolist()
    return {rip: name for rip in rips if rip and (name := resolve(rip)) is not None}


def guest_seconds(records: Records) -> Seconds:
    """Return the guest's clock at each record: never going back, not even when it is reset.

    Records of several vCPUs are numbered in an order that may differ from their clocks' by
    microseconds.
    """
    clock = records["vtime_ns"].astype(np.float64) / _NS
    resets = np.flatnonzero(records["kind"] == Kind.RESET)
    for at in resets.tolist():
        if at and clock[at] < (before := clock[:at].max()):
            clock[at:] += before - clock[at]
    return np.maximum.accumulate(clock) if len(clock) else clock


@dataclass(frozen=True, slots=True)
class Span:
    """One boot phase on the guest's clock, in seconds."""

    name: str
    start: float
    end: float


def phase_spans(records: Records, seconds: Seconds) -> tuple[Span, ...]:
    """Return the phases in order; what comes before the first mark is the launch."""
    if not len(records):
        return ()
    at = np.flatnonzero(records["kind"] == Kind.PHASE)
    names = [Phase(flag).word for flag in records["flags"][at].tolist()]
    starts = seconds[at].tolist()
    if not len(at) or at[0] > 0:
        names, starts = [Phase.LAUNCH.word, *names], [float(seconds[0]), *starts]
    ends = [*starts[1:], float(seconds[-1])]
    return tuple(Span(*values) for values in zip(names, starts, ends, strict=True))


@dataclass(frozen=True, slots=True)
class Series:
    """What happened in equal parts of guest time, by measure; ``edges`` has one more element."""

    edges: Seconds
    counts: Mapping[str, npt.NDArray[np.int64]]


def series(records: Records, seconds: Seconds, bins: int, measures: Measures = MEASURES) -> Series:
    """Count in *bins* parts of the time between the first record and the last."""
    first, last = (float(seconds[0]), float(seconds[-1])) if len(seconds) else (0.0, 0.0)
    edges = np.linspace(first, max(last, first + 1e-6), bins + 1)
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for row, added in amounts(records, measures.per_phase):
        at = np.flatnonzero(added)
        drawn = np.histogram(seconds[at], edges, weights=added[at].astype(np.float64))[0]
        counts[row.name] = drawn.astype(np.int64)
    return Series(edges, counts)


def pages_by_state(records: Records) -> npt.NDArray[np.int64]:
    """Return pages that are private, shared, poisoned after each record: shape (records, 4).

    Column 0, pending, counts from nothing: add the size of the memory.
    """
    delta = np.zeros((len(records), len(PageState)), np.int64)
    chosen = np.flatnonzero(changed_pages(records))
    pages = records["pages"][chosen].astype(np.int64)
    delta[chosen, records["from"][chosen]] -= pages
    delta[chosen, records["to"][chosen]] += pages
    totals = np.cumsum(delta, axis=0)
    for at in np.flatnonzero(records["kind"] == Kind.RESET).tolist():
        totals[at:] -= totals[at].copy()
    return totals


def changes(records: Records, seconds: Seconds) -> npt.NDArray[np.void]:
    """Return which pages changed to which state, as an array of CHANGE in the order of time.

    Neighbours that became the same within a millisecond are one change.
    """
    chosen = changed_pages(records) | (records["kind"] == Kind.RESET)
    picked = records[chosen]
    found = np.empty(len(picked), CHANGE)
    found["time"] = seconds[chosen]
    found["page"] = picked["gpa"] // PAGE_SIZE
    found["count"] = picked["pages"]
    reset = picked["kind"] == Kind.RESET
    found["state"] = np.where(reset, ALL_PENDING, picked["to"])
    found["page"][reset] = found["count"][reset] = 0
    return _joined(found)


def _joined(found: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    if not len(found):
        return found
    before, after = found[:-1], found[1:]
    ends = before["page"].astype(np.int64) + before["count"]
    breaks = (
        (ends != after["page"])
        | (before["state"] != after["state"])
        | (np.floor(before["time"] / _MERGE_S) != np.floor(after["time"] / _MERGE_S))
        | (after["state"] == ALL_PENDING)
    )
    starts = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    joined: npt.NDArray[np.void] = found[starts].copy()
    joined["count"] = np.add.reduceat(found["count"], starts)
    return joined


@dataclass(frozen=True, slots=True)
class Function:
    """What one function of the guest caused, by measure; an address if its name is unknown."""

    name: str
    counts: Mapping[str, int]

    @property
    def weight(self) -> int:
        return sum(self.counts.values())


def functions(
    records: Records, names: Names, measures: Measures = MEASURES
) -> tuple[Function, ...]:
    """Return the guest's functions by what they caused, the most first."""
    known = records[records["rip"] != 0]
    keys = np.stack([known["rip"], known["stack"].astype(np.uint64)], axis=1)
    pairs, inverse = np.unique(keys, axis=0, return_inverse=True)
    counts = _counts_by(known, inverse.ravel(), len(pairs), measures)
    callers = names.callers
    merged: dict[str, npt.NDArray[np.int64]] = {}
    for (rip, stack), row in zip(pairs.tolist(), counts, strict=True):
        if row.any():
            call = callers.blamed(stack, names.functions.get(rip))
            name = f"{rip:#x}" if call is None else function_of(call)
            merged[name] = merged.get(name, 0) + row
    columns = [row.name for row in measures.per_phase]
    found = (
        Function(name, dict(zip(columns, row.tolist(), strict=True)))
        for name, row in merged.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.weight, one.name)))


def _counts_by(
    records: Records, group: npt.NDArray[np.intp], groups: int, measures: Measures
) -> npt.NDArray[np.int64]:
    """Return a row for each group and a column for each measure per phase."""
    counted = [
        np.bincount(group, added, groups) for _, added in amounts(records, measures.per_phase)
    ]
    return np.stack(counted, axis=1).astype(np.int64)
