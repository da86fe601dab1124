# SPDX-License-Identifier: GPL-2.0-or-later
"""What boots took when somebody looked at it, to hold later ones against: counts by phase.  Pure.

A budget is a number that somebody thought of; a baseline is one that was measured.  Both end in the
same exit code.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from cvmlab.documents import read
from cvmlab.errors import ConfigError
from cvmlab.ranges import format_size
from cvmlab.result import FunctionCount, Outcome, PhaseCounters, Result


_NOUN = {
    "accepted": "accepted pages",
    "to_shared": "pages converted to shared",
    "to_private": "pages converted to private",
    "host_faults": "host faults",
}
_NAMED = 3  # functions in one sentence

Count = Annotated[int, Meta(ge=0)]


class _Document(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Tolerance(_Document, frozen=True, kw_only=True):
    """How much more is no regression: the larger of the two.  Faults have the percentage only."""

    percent: Count = 10
    pages: Count = 64

    def allowed(self, change: str, expected: int) -> int:
        """Return the largest count that is not a regression."""
        share = expected * self.percent // 100
        return expected + (share if change == "host_faults" else max(share, self.pages))


class Entry(_Document, frozen=True, kw_only=True):
    """One boot: counts by phase, and pages by phase, change and guest function."""

    phases: dict[str, PhaseCounters]
    functions: dict[str, dict[str, dict[str, Count]]] = {}


class Baselines(_Document, frozen=True, kw_only=True):
    """The file: ``boots`` by guest, profile, firmware, CPUs and memory."""

    tolerance: Tolerance = Tolerance()
    boots: dict[str, Entry] = {}

    def entry(self, name: str, where: str) -> Entry:
        """Return the entry *name*; raise ConfigError if there is none."""
        if name not in self.boots:
            raise ConfigError(
                f"{where} has no baseline for {name}",
                hint=f"`cvmlab baseline update {where} RESULT.json` takes one over",
            )
        return self.boots[name]


def parse(raw: object, where: str) -> Baselines:
    """Check a document, from TOML or JSON; raise ConfigError."""
    return read(raw, Baselines, where=where)


def to_json(baselines: Baselines) -> str:
    """Return the file: sorted, so that a change of it is small to review."""
    encoded = msgspec.json.encode(baselines, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


def key(guest: str, coco: str, firmware: str, cpus: int, memory_bytes: int) -> str:
    """Return the name of an entry."""
    number = f"{cpus}cpu{'s' if cpus > 1 else ''}"
    return "/".join((guest, coco, firmware.rpartition("/")[2], number, format_size(memory_bytes)))


def key_of(result: Result) -> str:
    """Return the name of the entry that *result* is held against; raise ConfigError if it is none."""
    if result.outcome is not Outcome.OK:
        raise ConfigError(
            f"a boot that failed is no measure: {result.message}", hint="give results of good boots"
        )
    if result.counters.events_dropped:
        raise ConfigError(
            f"{result.counters.events_dropped} events were dropped: counts by phase are too low",
            hint="boot it with --baseline, or with a budget of a phase: then none are",
        )
    firmware, memory = result.firmware, result.memory_bytes
    return key(result.guest or "default", result.coco, firmware, result.cpus, memory)


def entry_of(result: Result) -> Entry:
    """Return what a boot took."""
    functions: dict[str, dict[str, dict[str, int]]] = {}
    for item in result.functions:
        if item.symbol is not None:
            counts = functions.setdefault(item.phase, {}).setdefault(item.change, {})
            counts[item.symbol] = counts.get(item.symbol, 0) + item.pages
    return Entry(phases=_phases(result), functions=functions)


def _phases(result: Result) -> dict[str, PhaseCounters]:
    """Sum up the phases by name: a guest that reboots goes through them again."""
    found: dict[str, dict[str, int]] = {}
    for phase in result.phases:
        counts = found.setdefault(phase.name, dict.fromkeys(_NOUN, 0))
        for change in _NOUN:
            counts[change] += getattr(phase.counters, change)
    return {name: PhaseCounters(**counts) for name, counts in found.items()}


def updated(baselines: Baselines, results: Iterable[Result]) -> Baselines:
    """Return *baselines* with what *results* took; of several for one entry the most."""
    fresh: dict[str, Entry] = {}
    for result in results:
        name, entry = key_of(result), entry_of(result)
        fresh[name] = _most(fresh[name], entry) if name in fresh else entry
    return msgspec.structs.replace(baselines, boots={**baselines.boots, **fresh})


def _most(first: Entry, second: Entry) -> Entry:
    phases = {
        name: PhaseCounters(
            **{
                change: max(
                    getattr(entry.phases.get(name, PhaseCounters()), change)
                    for entry in (first, second)
                )
                for change in _NOUN
            }
        )
        for name in {**first.phases, **second.phases}
    }
    return Entry(phases=phases, functions={**first.functions, **second.functions})


def regressions(entry: Entry, tolerance: Tolerance, result: Result) -> Iterator[str]:
    """Yield a sentence for each count that is more than it was, with the functions that grew."""
    for phase, counters in _phases(result).items():
        before = entry.phases.get(phase, PhaseCounters())
        for change, noun in _NOUN.items():
            measured, expected = getattr(counters, change), getattr(before, change)
            allowed = tolerance.allowed(change, expected)
            if measured > allowed:
                grown = _grown(
                    entry.functions.get(phase, {}).get(change, {}),
                    (f for f in result.functions if (f.phase, f.change) == (phase, change)),
                )
                yield (
                    f"{measured} {noun} in phase {phase}: the baseline is {expected}, "
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
