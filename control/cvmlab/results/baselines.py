# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts by phase of earlier boots, which later boots are compared with.  Pure.

A budget is a limit that somebody chose; a baseline is one that was measured.  Exceeding either ends
in the same exit code.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from cvmlab.base.documents import read
from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES, Measure, Measures, Unit
from cvmlab.memory.ranges import format_size
from cvmlab.results.counts import BaselineCounters, baseline_counters_type, retyped
from cvmlab.results.result import FunctionCount, Outcome, Result


_NAMED = 3  # functions in one sentence

Count = Annotated[int, Meta(ge=0)]


class _Document(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Tolerance(_Document, frozen=True, kw_only=True):
    """How much more is no regression: the larger of the two.  Events have the percentage only."""

    percent: Count = 10
    pages: Count = 64

    def allowed(self, measure: Measure, expected: int) -> int:
        """Return the largest count that is not a regression."""
        share = expected * self.percent // 100
        return expected + (max(share, self.pages) if measure.unit is Unit.PAGES else share)


class BaselineEntry(_Document, frozen=True, kw_only=True):
    """One boot: counts by phase, and pages by phase, change and guest function."""

    phases: dict[str, BaselineCounters]
    functions: dict[str, dict[str, dict[str, Count]]] = {}


class Baselines(_Document, frozen=True, kw_only=True):
    """The file: ``boots`` by guest, profile, firmware, CPUs, memory and other options."""

    tolerance: Tolerance = Tolerance()
    boots: dict[str, BaselineEntry] = {}

    def entry(self, name: str, where: str) -> BaselineEntry:
        """Return the entry *name*; raise ConfigError if there is none."""
        if name not in self.boots:
            raise ConfigError(
                f"{where} has no baseline for {name}",
                hint=f"`cvmlab baseline update {where} RESULT.json` takes one over",
            )
        return self.boots[name]


@cache
def baselines_type(measures: Measures) -> type[Baselines]:
    """Return Baselines with the counts of *measures*."""
    if measures == MEASURES:
        return Baselines
    entry = retyped(BaselineEntry, phases=dict[str, baseline_counters_type(measures)])  # type: ignore[misc]
    return retyped(Baselines, boots=dict[str, entry])  # type: ignore[valid-type]


def parse(raw: object, where: str, measures: Measures = MEASURES) -> Baselines:
    """Check a document, from TOML or JSON; raise ConfigError."""
    return read(raw, baselines_type(measures), where=where)


def to_json(baselines: Baselines) -> str:
    """Return the file: sorted, so that a change of it is small to review."""
    encoded = msgspec.json.encode(baselines, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


def key(
    guest: str,
    coco: str,
    firmware: str,
    cpus: int,
    memory_bytes: int,
    variant: Sequence[str] = (),
) -> str:
    """Return the name of an entry; *variant* are other options that shape the guest."""
    number = f"{cpus}cpu{'s' if cpus > 1 else ''}"
    parts = [guest, coco, firmware.rpartition("/")[2], number, format_size(memory_bytes)]
    return "/".join([*parts, *([",".join(variant)] if variant else [])])


def key_of(result: Result) -> str:
    """Return the name of the entry for *result*; raise ConfigError if it cannot be compared."""
    if result.outcome is not Outcome.OK:
        raise ConfigError(
            f"a boot that failed cannot be a baseline: {result.message}",
            hint="give results of good boots",
        )
    if result.counters.events_dropped:
        raise ConfigError(
            f"{result.counters.events_dropped} events were dropped: counts by phase are too low",
            hint="boot it with --baseline, or with a budget for a phase: then no event is dropped",
        )
    firmware, memory = result.firmware, result.memory_bytes
    guest = result.guest or "default"
    return key(guest, result.coco, firmware, result.cpus, memory, result.variant)


def entry_of(result: Result, measures: Measures = MEASURES) -> BaselineEntry:
    """Return the counts of a boot."""
    functions: dict[str, dict[str, dict[str, int]]] = {}
    for item in result.functions:
        if item.symbol is not None:
            counts = functions.setdefault(item.phase, {}).setdefault(item.change, {})
            counts[item.symbol] = counts.get(item.symbol, 0) + item.pages
    return BaselineEntry(phases=_phases(result, measures), functions=functions)


def _phases(result: Result, measures: Measures) -> dict[str, BaselineCounters]:
    """Sum up the phases by name: a guest that reboots goes through them again."""
    found: dict[str, dict[str, int]] = {}
    for phase in result.phases:
        counts = found.setdefault(phase.name, {row.name: 0 for row in measures.baselines})
        for name in counts:
            counts[name] += phase.counters[name]
    made = baseline_counters_type(measures)
    return {name: made(**counts) for name, counts in found.items()}


def updated(
    baselines: Baselines, results: Iterable[Result], measures: Measures = MEASURES
) -> Baselines:
    """Return *baselines* with the counts of *results*; of several for one entry, the largest."""
    fresh: dict[str, BaselineEntry] = {}
    for result in results:
        name, entry = key_of(result), entry_of(result, measures)
        fresh[name] = _most(fresh[name], entry, measures) if name in fresh else entry
    return msgspec.structs.replace(baselines, boots={**baselines.boots, **fresh})


def _most(first: BaselineEntry, second: BaselineEntry, measures: Measures) -> BaselineEntry:
    made = baseline_counters_type(measures)
    none, entries = made(), (first, second)
    phases = {
        name: made(
            **{
                row.name: max(entry.phases.get(name, none)[row.name] for entry in entries)
                for row in measures.baselines
            }
        )
        for name in {**first.phases, **second.phases}
    }
    return BaselineEntry(phases=phases, functions={**first.functions, **second.functions})


def regressions(
    entry: BaselineEntry, tolerance: Tolerance, result: Result, measures: Measures = MEASURES
) -> Iterator[str]:
    """Yield a sentence for each count that grew too much, with the functions that grew."""
    none = baseline_counters_type(measures)()
    for phase, counters in _phases(result, measures).items():
        before = entry.phases.get(phase, none)
        for row in measures.baselines:
            measured, expected = counters[row.name], before[row.name]
            allowed = tolerance.allowed(row, expected)
            if measured > allowed:
                grown = _grown(
                    entry.functions.get(phase, {}).get(row.name, {}),
                    (f for f in result.functions if (f.phase, f.change) == (phase, row.name)),
                )
                yield (
                    f"{row.say(measured)} in phase {phase}: the baseline is {expected}, "
                    f"{allowed} are allowed{grown}"
                )


def _grown(before: Mapping[str, int], functions: Iterable[FunctionCount]) -> str:
    more = [
        (item.pages - before.get(item.symbol, 0), item.symbol)
        for item in functions
        if item.symbol is not None and item.pages > before.get(item.symbol, 0)
    ]
    told = ", ".join(f"{pages} more in {symbol}" for pages, symbol in sorted(more)[::-1][:_NAMED])
    return f"; {told}" if told else ""
