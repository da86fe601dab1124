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
from cvmlab.result import Conversion, Fault, FunctionCount
from cvmlab.states import PageState


Records = npt.NDArray[np.void]
Resolve = Callable[[int], str | None]

FIRST_FAULTS = 64
TOP_FUNCTIONS = 16
_FAULT_KEY = ("actor", "device", "flags", "page")
_CONVERSION_KEY = ("actor", "device", "to", "rip")


@dataclass(frozen=True, slots=True)
class _Group:
    """Records alike in some fields: the first of them, how many, and the pages of all."""

    first: np.void
    count: int
    pages: int


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
    totals: dict[tuple[str, str], dict[str | None, tuple[int, int]]] = {}
    for phase, part in by_phase(records):
        for change, which in chosen(part).items():
            counts = totals.setdefault((phase, change), {})
            for group in _groups(part[which], ("rip",)):
                rip = int(group.first["rip"])
                symbol = _function(resolve(rip)) if rip else None
                pages, requests = counts.get(symbol, (0, 0))
                counts[symbol] = (pages + group.pages, requests + group.count)
    return tuple(
        FunctionCount(phase=phase, change=change, symbol=symbol, pages=pages, requests=requests)
        for (phase, change), counts in totals.items()
        for symbol, (pages, requests) in sorted(counts.items(), key=lambda item: -item[1][0])[
            :limit
        ]
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
    _, first, inverse, counts = np.unique(
        _keys(records, fields), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    pages = np.bincount(inverse.ravel(), weights=records["pages"])
    return [
        _Group(records[first[group]], int(counts[group]), int(pages[group]))
        for group in np.argsort(first)[:limit].tolist()
    ]
