# SPDX-License-Identifier: GPL-2.0-or-later
"""Sum up a journal for result and report: faults and conversions, by actor and function.  Pure.

A guest can make a million records, so alike ones are grouped in numpy first, and only groups
become objects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmlab.phases import by_phase, chosen
from cvmlab.ranges import PAGE_SIZE
from cvmlab.records import FLAG_WRITE, NO_DEVICE, Actor, Kind, Verdict
from cvmlab.result import Conversion, Fault, FunctionCount, Refused
from cvmlab.states import PageState, Refusal


Records = npt.NDArray[np.void]
Resolve = Callable[[int], str | None]

FIRST_FAULTS = 64
TOP_FUNCTIONS = 16
_FAULT_KEY = ("actor", "device", "flags", "page")
_REFUSED_KEY = ("refusal", "rip")
_CONVERSION_KEY = ("actor", "device", "to", "rip")


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


def faults(
    records: Records, devices: Mapping[int, str], resolve: Resolve, *, limit: int = FIRST_FAULTS
) -> tuple[Fault, ...]:
    """Return the first *limit* faults, alike ones (actor, page, direction) as one."""
    denied = records[records["kind"] == Kind.HOST_FAULT]
    return tuple(_fault(group, devices, resolve) for group in _groups(denied, _FAULT_KEY, limit))


def _fault(group: _Group, devices: Mapping[int, str], resolve: Resolve) -> Fault:
    record = group.first
    rip = int(record["rip"])
    return Fault(
        actor=Actor(int(record["actor"])).word,
        device=_device(record, devices),
        gpa=int(record["gpa"]),
        write=bool(record["flags"] & FLAG_WRITE),
        state=PageState(int(record["from"])).word,
        rip=rip or None,
        symbol=resolve(rip) if rip else None,
        verdict=Verdict(int(record["verdict"])).word,
        count=group.count,
    )


def conversions(
    records: Records, devices: Mapping[int, str], resolve: Resolve
) -> tuple[Conversion, ...]:
    """Return who converted how many pages to what, the most pages first."""
    converted = records[(records["kind"] == Kind.CONVERT) & (records["from"] != records["to"])]
    found: dict[tuple[str, str | None, str, str | None], tuple[int, int]] = {}
    for group in _groups(converted, _CONVERSION_KEY):
        rip = int(group.first["rip"])
        key = (
            Actor(int(group.first["actor"])).word,
            _device(group.first, devices),
            "shared" if group.first["to"] == PageState.SHARED else "private",
            _function(resolve(rip)) if rip else None,
        )
        pages, requests = found.get(key, (0, 0))
        found[key] = (pages + group.pages, requests + group.count)
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return tuple(
        Conversion(actor=actor, device=device, to=to, symbol=symbol, pages=pages, requests=requests)
        for (actor, device, to, symbol), (pages, requests) in ordered
    )


def functions(
    records: Records, resolve: Resolve, *, limit: int = TOP_FUNCTIONS
) -> tuple[FunctionCount, ...]:
    """Return which functions changed the most pages: *limit* for each phase and kind of change."""
    totals: dict[tuple[str, str], dict[str | None, npt.NDArray[np.int64]]] = {}
    for phase, part in by_phase(records):
        for change, which in chosen(part).items():
            counts = totals.setdefault((phase, change), {})
            for group in _groups(part[which], ("rip",)):
                rip = int(group.first["rip"])
                symbol = _function(resolve(rip)) if rip else None
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


def refused(records: Records, resolve: Resolve) -> tuple[Refused, ...]:
    """Return the requests of the guest that were refused, by reason and function, in order."""
    requests = records[records["kind"] == Kind.VIOLATION]
    return tuple(
        Refused(
            reason=Refusal(int(group.first["refusal"])).word,
            symbol=_function(resolve(int(group.first["rip"]))),
            gpa=int(group.first["gpa"]),
            pages=int(group.first["pages"]),
            requests=group.count,
        )
        for group in _groups(requests, _REFUSED_KEY)
    )


def _function(symbol: str | None) -> str | None:
    return None if symbol is None else symbol.rpartition("+")[0]


def _device(record: np.void, devices: Mapping[int, str]) -> str | None:
    number = int(record["device"])
    return None if number == NO_DEVICE else devices.get(number, f"#{number}")


def _keys(records: Records, fields: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    columns = [
        records["gpa"] // PAGE_SIZE if field == "page" else records[field] for field in fields
    ]
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
