# SPDX-License-Identifier: GPL-2.0-or-later
"""Sum up a journal for result and report: host accesses and conversions, by actor and function.

A guest can make a million records.  So numpy groups records that are alike, and only groups become
objects.  Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmlab.memory.counting import amounts, count
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import (
    ALLOWED_ACCESS,
    FLAG_IMPLICIT,
    FLAG_STATE,
    FLAG_WRITE,
    NO_DEVICE,
    Actor,
    Kind,
    Verdict,
    changed_pages,
    host_faults,
    is_event,
)
from cvmlab.memory.states import PageState, RefusalCode
from cvmlab.results.callers import NO_CALLERS, Callers, function_of
from cvmlab.results.counts import Counters, counters_type
from cvmlab.results.phases import by_phase
from cvmlab.results.result import CPU_STATE, Conversion, FunctionCount, HostAccess, Refused


Records = npt.NDArray[np.void]
Resolve = Callable[[int], str | None]

FIRST_FAULTS = 64
TOP_FUNCTIONS = 16
_ACCESS_KEY = ("actor", "device", "flags", "page")
_REFUSED_KEY = ("refusal", "rip", "stack")
_CONVERSION_KEY = ("actor", "device", "to", "implicit", "rip", "stack")


@dataclass(frozen=True, slots=True)
class _Group:
    """Records alike in some fields: the first of them, how many, and the pages of all."""

    first: np.void
    sums: npt.NDArray[np.int64]  # pages, records, whole pages of 2 MiB, and of 1 GiB

    @property
    def pages(self) -> int:
        return int(self.sums[0])

    @property
    def count(self) -> int:
        return int(self.sums[1])


def counters(live: Mapping[str, int], records: Records, measures: Measures = MEASURES) -> Counters:
    """Return a run's counts: the plugin's own, and what only the journal tells."""
    return counters_type(measures)(**live, **count(records, measures.recorded))


def faults(
    records: Records,
    devices: Mapping[int, str],
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
    *,
    limit: int = FIRST_FAULTS,
) -> tuple[HostAccess, ...]:
    """Return the first *limit* host faults; those alike (actor, page, direction) are one."""
    groups = _groups(records[host_faults(records)], _ACCESS_KEY, limit)
    return tuple(_access(group, devices, resolve, callers) for group in groups)


def allowed(
    records: Records,
    devices: Mapping[int, str],
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
    *,
    limit: int = FIRST_FAULTS,
) -> tuple[HostAccess, ...]:
    """Return the first *limit* host accesses that were allowed, grouped as faults() groups."""
    groups = _groups(records[is_event(records, ALLOWED_ACCESS)], _ACCESS_KEY, limit)
    return tuple(_access(group, devices, resolve, callers) for group in groups)


def _access(
    group: _Group, devices: Mapping[int, str], resolve: Resolve, callers: Callers
) -> HostAccess:
    record = group.first
    rip = int(record["rip"])
    return HostAccess(
        actor=Actor(int(record["actor"])).word,
        device=_device(record, devices),
        gpa=int(record["gpa"]),
        write=bool(record["flags"] & FLAG_WRITE),
        state=CPU_STATE if record["flags"] & FLAG_STATE else PageState(int(record["from"])).word,
        rip=rip or None,
        symbol=_call(record, resolve, callers),
        callers=callers.above(int(record["stack"])),
        verdict=Verdict(int(record["verdict"])).word,
        count=group.count,
    )


def _call(record: np.void, resolve: Resolve, callers: Callers) -> str | None:
    """Return the call to blame for *record*, with its offset in the function."""
    rip = int(record["rip"])
    return callers.blamed(int(record["stack"]), resolve(rip) if rip else None)


def conversions(
    records: Records,
    devices: Mapping[int, str],
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
) -> tuple[Conversion, ...]:
    """Return who converted how many pages to what, the most pages first."""
    converted = records[changed_pages(records) & (records["kind"] == Kind.CONVERT)]
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    for group in _groups(converted, _CONVERSION_KEY):
        stack = int(group.first["stack"])
        key = (
            Actor(int(group.first["actor"])).word,
            _device(group.first, devices),
            "shared" if group.first["to"] == PageState.SHARED else "private",
            bool(group.first["flags"] & FLAG_IMPLICIT),
            _function(_call(group.first, resolve, callers)),
            callers.above(stack),
            callers.guessed(stack),
        )
        pages, requests = found.get(key, (0, 0))
        found[key] = (pages + group.pages, requests + group.count)
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return tuple(
        Conversion(
            actor=actor, device=device, to=to, implicit=implicit, symbol=symbol, callers=above,
            guessed=guessed, pages=pages, requests=requests,
        )
        for (actor, device, to, implicit, symbol, above, guessed), (pages, requests) in ordered
    )  # fmt: skip


def functions(
    records: Records,
    resolve: Resolve,
    callers: Callers = NO_CALLERS,
    *,
    limit: int = TOP_FUNCTIONS,
    measures: Measures = MEASURES,
) -> tuple[FunctionCount, ...]:
    """Return which functions changed the most pages: *limit* for each phase and kind of change."""
    chosen = {row.name: added > 0 for row, added in amounts(records, measures.changes)}
    totals: dict[tuple[str, str], dict[str | None, npt.NDArray[np.int64]]] = {}
    for phase, part in by_phase(records):
        for change, which in chosen.items():
            counts = totals.setdefault((phase, change), {})
            for group in _groups(records[part][which[part]], ("rip", "stack")):
                symbol = _function(_call(group.first, resolve, callers))
                counts[symbol] = counts.get(symbol, 0) + group.sums
    return tuple(
        FunctionCount(
            phase=phase, change=change, symbol=symbol, pages=pages, requests=requests,
            of_2m=of_2m, of_1g=of_1g,
        )
        for (phase, change), counts in totals.items()
        for symbol, sums in sorted(counts.items(), key=lambda item: -item[1][0])[:limit]
        for pages, requests, of_2m, of_1g in [sums.tolist()]
    )  # fmt: skip


def refused(
    records: Records, resolve: Resolve, callers: Callers = NO_CALLERS
) -> tuple[Refused, ...]:
    """Return the requests of the guest that were refused, by reason and function, in order."""
    requests = records[records["kind"] == Kind.VIOLATION]
    return tuple(
        Refused(
            reason=RefusalCode(int(group.first["refusal"])).word,
            symbol=_function(_call(group.first, resolve, callers)),
            callers=callers.above(int(group.first["stack"])),
            gpa=int(group.first["gpa"]),
            pages=int(group.first["pages"]),
            requests=group.count,
        )
        for group in _groups(requests, _REFUSED_KEY)
    )


def grouped(records: Records, fields: tuple[str, ...], limit: int) -> list[tuple[np.void, int]]:
    """Return the first record of each group that is alike in *fields*, and the group's size."""
    return [(group.first, group.count) for group in _groups(records, fields, limit)]


def _function(symbol: str | None) -> str | None:
    return None if symbol is None else function_of(symbol)


def _device(record: np.void, devices: Mapping[int, str]) -> str | None:
    number = int(record["device"])
    return None if number == NO_DEVICE else devices.get(number, f"#{number}")


# What records are grouped by, and have no field for.
_MADE: Mapping[str, Callable[[Records], npt.NDArray[Any]]] = {
    "page": lambda records: records["gpa"] // PAGE_SIZE,
    "implicit": lambda records: records["flags"] & FLAG_IMPLICIT,
}


def _keys(records: Records, fields: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    columns = [_MADE[field](records) if field in _MADE else records[field] for field in fields]
    return np.stack([column.astype(np.uint64) for column in columns], axis=1)


def _groups(records: Records, fields: tuple[str, ...], limit: int | None = None) -> list[_Group]:
    """Group *records*, in order of the first of each group; at most *limit* groups."""
    if not len(records):
        return []
    _, first, inverse = np.unique(
        _keys(records, fields), axis=0, return_index=True, return_inverse=True
    )
    columns = (records["pages"], np.ones(len(records)), *_large_pages(records))
    sums = np.stack([np.bincount(inverse.ravel(), weights=one) for one in columns], axis=1)
    return [
        _Group(records[first[group]], sums[group].astype(np.int64))
        for group in np.argsort(first)[:limit].tolist()
    ]


def _large_pages(records: Records) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return how many pages of 2 MiB and of 1 GiB are whole in the range of each record.

    An acceptance is a record of its own, so 512 of 4 KiB are never taken for one of 2 MiB.
    """
    first = (records["gpa"] // PAGE_SIZE).astype(np.int64)
    end = first + records["pages"].astype(np.int64)
    of_2m, of_1g = (np.maximum(end // unit + -first // unit, 0) for unit in (1 << 9, 1 << 18))
    return of_2m - (of_1g << 9), of_1g
