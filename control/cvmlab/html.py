# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of one run, or of two beside each other, as one HTML file that needs nothing else.

Everything is in the file: style, program, data.  A content policy in it forbids the browser to
fetch anything.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from cvmlab import __version__
from cvmlab.drawing import timeline
from cvmlab.pagemap import share
from cvmlab.phases import phases
from cvmlab.ranges import PAGE_SIZE, format_size
from cvmlab.recording import Recording
from cvmlab.records import Kind
from cvmlab.report import EMULATED
from cvmlab.result import Fault, Phase
from cvmlab.states import PageState
from cvmlab.summary import faults
from cvmlab.timeline import Function, changes, functions, guest_seconds, pages_by_state


FAULTS_SHOWN = 500
FUNCTIONS_SHOWN = 40
_MAX_UNITS = 1 << 22  # states that the page keeps; a larger guest is shown more coarsely
_COUNTS = ("accepted", "to_shared", "to_private", "host_faults")


def render(recording: Recording, other: Recording | None = None) -> str:
    """Return the HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvmlab", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    runs = [recording] if other is None else [recording, other]
    return environment.get_template("report.html").render(
        version=__version__,
        emulated=EMULATED,
        runs=[_facts(run) for run in runs],
        timeline=timeline(recording.records, None if other is None else other.records),
        phases=list(_phase_rows(runs)),
        faults=_faults(recording),
        fault_total=_count(recording, Kind.HOST_FAULT),
        functions=list(_function_rows(runs)),
        differences=[] if other is None else list(_differences(recording, other)),
        data={"runs": [_data(run) for run in runs]},
    )


def _facts(run: Recording) -> dict[str, Any]:
    """What is said about a run in the head of the report."""
    result = run.result
    levels = pages_by_state(run.records)[-1] if len(run.records) else np.zeros(4, np.int64)
    total = _total_pages(run)
    pages = [total + int(levels[0]), *levels[1:].tolist()]
    return {
        "title": run.title,
        "result": result,
        "events": len(run.records),
        "memory": format_size(_memory_bytes(run)),
        "pages": [
            (state.word, count, share(count, total))
            for state, count in zip(PageState, pages, strict=True)
        ],
        "dropped": result.counters.events_dropped if result is not None else 0,
    }


def _memory_bytes(run: Recording) -> int:
    """What the machine was given; its slots leave out what the PC keeps for itself below 1 MiB."""
    given = 0 if run.result is None else run.result.memory_bytes
    return given or _total_pages(run) * PAGE_SIZE


def _total_pages(run: Recording) -> int:
    return sum(slot.size for slot in run.names.slots) // PAGE_SIZE


def _count(run: Recording, kind: Kind) -> int:
    return int(np.count_nonzero(run.records["kind"] == kind))


def _faults(run: Recording) -> tuple[Fault, ...]:
    resolve = run.names.functions.get
    return faults(run.records, run.names.devices, resolve, limit=FAULTS_SHOWN)


def _phases(run: Recording) -> tuple[Phase, ...]:
    """What the result says, which knows when the guest ended; else what the journal says."""
    said = run.result.phases if run.result is not None else ()
    return said or phases(run.records)


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase of the first run, and the one in the same place of the second."""

    phase: Phase
    other: Phase | None


def _phase_rows(runs: Sequence[Recording]) -> Iterator[PhaseRow]:
    cut = [_phases(run) for run in runs]
    others = {phase.name: phase for phase in cut[1]} if len(cut) > 1 else {}
    for phase in cut[0]:
        yield PhaseRow(phase, others.get(phase.name))


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function of the guest; ``bar`` is its part of the first one, in percent."""

    function: Function
    other: Function | None
    bar: float


def _function_rows(runs: Sequence[Recording]) -> Iterator[FunctionRow]:
    found = [functions(run.records, run.names) for run in runs]
    others = {one.name: one for one in found[1]} if len(found) > 1 else {}
    most = max((one.weight for one in found[0]), default=1)
    for one in found[0][:FUNCTIONS_SHOWN]:
        yield FunctionRow(one, others.get(one.name), round(100 * one.weight / most, 1))


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of two runs."""

    what: str
    first: int
    second: int

    @property
    def change(self) -> str:
        if self.first == self.second:
            return "same"
        if not self.first:
            return f"+{self.second}"
        return f"{self.second - self.first:+} ({100 * (self.second / self.first - 1):+.1f} %)"


def _differences(first: Recording, second: Recording) -> Iterator[Difference]:
    """Compare phases, then functions: those that differ most come first."""
    cuts = [{phase.name: phase for phase in _phases(run)} for run in (first, second)]
    for name in dict.fromkeys([*cuts[0], *cuts[1]]):
        for field in _COUNTS:
            pair = [getattr(cut[name].counters, field) if name in cut else 0 for cut in cuts]
            if any(pair):
                yield Difference(f"{name}: {field.replace('_', ' ')}", *pair)
    weights = [
        {one.name: one.weight for one in functions(run.records, run.names)}
        for run in (first, second)
    ]
    names = {*weights[0], *weights[1]}
    found = [Difference(f"{n}()", weights[0].get(n, 0), weights[1].get(n, 0)) for n in names]
    changed = [one for one in found if one.first != one.second]
    yield from sorted(changed, key=lambda one: (-abs(one.second - one.first), one.what))[:20]


def _data(run: Recording) -> dict[str, Any]:
    """What the page's program draws the map from; pages count through all slots, without gaps."""
    seconds = guest_seconds(run.records)
    start = float(seconds[0]) if len(seconds) else 0.0
    slots = sorted(run.names.slots, key=lambda slot: slot.gpa)
    unit = 1
    while _total_pages(run) > unit * _MAX_UNITS:
        unit *= 2
    moved = changes(run.records, seconds)
    hits = run.records["kind"] == Kind.HOST_FAULT
    return {
        "title": run.title,
        "seconds": float(seconds[-1]) - start if len(seconds) else 0.0,
        "unit": unit,
        "slots": [[slot.gpa, slot.size // PAGE_SIZE] for slot in slots],
        "time": _packed(moved["time"] - np.float32(start), "<f4"),
        "page": _packed(moved["page"], "<u4"),
        "count": _packed(moved["count"], "<u4"),
        "state": _packed(moved["state"], "u1"),
        "fault_time": _packed(seconds[hits] - start, "<f4"),
        "fault_page": _packed(run.records["gpa"][hits] // PAGE_SIZE, "<u4"),
    }


def _packed(values: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode("ascii")
