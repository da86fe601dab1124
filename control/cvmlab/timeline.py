# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal over guest time: what trace and report are drawn from.  Pure.

A guest can make a million records, so everything here is arrays; objects are made of groups only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from cvmlab.ranges import PAGE_SIZE
from cvmlab.records import Kind, Phase
from cvmlab.replay import Slot
from cvmlab.states import PageState


Records = npt.NDArray[np.void]
Seconds = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ALL_PENDING = 255  # the state in a Change that stands for a reset of the guest
CHANGE = np.dtype([("time", "<f4"), ("page", "<u4"), ("count", "<u4"), ("state", "u1")])
_NS = 1e9
_CHANGING = (Kind.ACCEPT, Kind.CONVERT, Kind.DISCARD, Kind.POISON, Kind.LOAD)
_MERGE_S = 0.001  # changes so near in time are one step of the picture


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What the numbers in a journal stand for; ``names.json`` of a run folder."""

    devices: dict[int, str] = {}
    functions: dict[int, str] = {}  # instruction address -> function+offset
    slots: tuple[Slot, ...] = ()

    def function(self, rip: int) -> str | None:
        """Return the function, without offset, that *rip* is in."""
        found = self.functions.get(rip)
        return None if found is None else found.rpartition("+")[0] or found


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
    """Pages and faults in equal parts of guest time; ``edges`` has one more element."""

    edges: Seconds
    accepted: npt.NDArray[np.int64]
    to_shared: npt.NDArray[np.int64]
    to_private: npt.NDArray[np.int64]
    faults: npt.NDArray[np.int64]


def changing(records: Records) -> Mask:
    """Say which records changed the state of pages."""
    changed: Mask = np.isin(records["kind"], _CHANGING) & (records["from"] != records["to"])
    return changed


def series(records: Records, seconds: Seconds, bins: int) -> Series:
    """Count in *bins* parts of the time between the first record and the last."""
    first, last = (float(seconds[0]), float(seconds[-1])) if len(seconds) else (0.0, 0.0)
    edges = np.linspace(first, max(last, first + 1e-6), bins + 1)
    kind, changed = records["kind"], changing(records)
    shared = records["to"] == PageState.SHARED

    def pages(chosen: Mask) -> npt.NDArray[np.int64]:
        weights = records["pages"][chosen].astype(np.float64)
        return np.histogram(seconds[chosen], edges, weights=weights)[0].astype(np.int64)

    return Series(
        edges=edges,
        accepted=pages((kind == Kind.ACCEPT) & changed),
        to_shared=pages((kind == Kind.CONVERT) & changed & shared),
        to_private=pages((kind == Kind.CONVERT) & changed & ~shared),
        faults=np.histogram(seconds[kind == Kind.HOST_FAULT], edges)[0].astype(np.int64),
    )


def pages_by_state(records: Records) -> npt.NDArray[np.int64]:
    """Return pages that are private, shared, poisoned after each record: shape (records, 4).

    Column 0, pending, counts from nothing: add the size of the memory.
    """
    delta = np.zeros((len(records), len(PageState)), np.int64)
    chosen = np.flatnonzero(changing(records))
    pages = records["pages"][chosen].astype(np.int64)
    delta[chosen, records["from"][chosen]] -= pages
    delta[chosen, records["to"][chosen]] += pages
    totals = np.cumsum(delta, axis=0)
    for at in np.flatnonzero(records["kind"] == Kind.RESET).tolist():
        totals[at:] -= totals[at].copy()
    return totals


def changes(records: Records, seconds: Seconds) -> npt.NDArray[np.void]:
    """Return what happened to which pages, as an array of CHANGE in the order of time.

    Neighbours that became the same within a millisecond are one change.
    """
    chosen = changing(records) | (records["kind"] == Kind.RESET)
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
    """What one function of the guest (or ``None``: unknown) caused, in pages and in faults."""

    name: str
    accepted: int
    to_shared: int
    to_private: int
    faults: int

    @property
    def weight(self) -> int:
        return self.accepted + self.to_shared + self.to_private + self.faults


def functions(records: Records, names: Names) -> tuple[Function, ...]:
    """Return the guest's functions by what they caused, the most first."""
    known = records[records["rip"] != 0]
    rips, inverse = np.unique(known["rip"], return_inverse=True)
    counts = _counts_by(known, inverse.ravel(), len(rips))
    merged: dict[str, npt.NDArray[np.int64]] = {}
    for rip, row in zip(rips.tolist(), counts, strict=True):
        if row.any():
            name = names.function(rip) or f"{rip:#x}"
            merged[name] = merged.get(name, 0) + row
    found = (Function(name, *row.tolist()) for name, row in merged.items())
    return tuple(sorted(found, key=lambda one: (-one.weight, one.name)))


def _counts_by(records: Records, group: npt.NDArray[np.intp], groups: int) -> npt.NDArray[np.int64]:
    kind, changed = records["kind"], changing(records)
    shared = records["to"] == PageState.SHARED
    pages = records["pages"].astype(np.float64)
    columns: Mapping[str, npt.NDArray[np.float64]] = {
        "accepted": pages * ((kind == Kind.ACCEPT) & changed),
        "to_shared": pages * ((kind == Kind.CONVERT) & changed & shared),
        "to_private": pages * ((kind == Kind.CONVERT) & changed & ~shared),
        "faults": np.isin(kind, (Kind.HOST_FAULT, Kind.GUEST_FAULT)).astype(np.float64),
    }
    counted = [np.bincount(group, column, groups) for column in columns.values()]
    return np.stack(counted, axis=1).astype(np.int64)
