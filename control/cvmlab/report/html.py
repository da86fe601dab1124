# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of one run, or of two beside each other, as one HTML file that needs nothing else.

Style, program and data are all in the file.  Its content policy forbids the browser to fetch
anything.
"""

import base64
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from cvmlab import __version__
from cvmlab.memory.measures import MEASURES, Measure, Measures
from cvmlab.memory.page_map import RANK, share
from cvmlab.memory.ranges import PAGE_SIZE, format_size
from cvmlab.memory.records import ALLOWED_ACCESS, host_faults, is_event
from cvmlab.memory.states import PageState
from cvmlab.report.drawing import timeline
from cvmlab.report.recording import Recording
from cvmlab.report.text import EMULATED, details, others, say_evidence, say_restored
from cvmlab.results import guest_faults
from cvmlab.results.phases import phases
from cvmlab.results.result import Conversion, GuestFault, HostAccess, Outcome, PhaseResult
from cvmlab.results.summary import allowed, conversions, faults
from cvmlab.results.timeline import Function, changes, functions, guest_seconds, pages_by_state


FAULTS_SHOWN = 500
CONVERSIONS_SHOWN = 200
FUNCTIONS_SHOWN = 40
_MAX_UNITS = 1 << 22  # states that the page keeps; a larger guest is shown more coarsely


def render(
    recording: Recording, other: Recording | None = None, measures: Measures = MEASURES
) -> str:
    """Return the HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cvmlab.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    runs = [recording] if other is None else [recording, other]
    cuts = [_phases(run, measures) for run in runs]
    found = [functions(run.records, run.names, measures) for run in runs]
    return environment.get_template("report.html").render(
        version=__version__,
        emulated=EMULATED,
        states=[state.word for state in PageState],
        runs=[_facts(run, measures) for run in runs],
        timeline=timeline(recording.records, None if other is None else other.records, measures),
        phase_columns=measures.shown(*(one.counters.as_dict() for cut in cuts for one in cut)),
        phases=list(_phase_rows(cuts)),
        conversions=_conversions(recording),
        guest_faults=_guest_faults(recording),
        say_guest_fault=guest_faults.say,
        accesses=list(_access_tables(recording)),
        function_columns=measures.shown(*(one.counts for one in itertools.chain(*found))),
        functions=list(_function_rows(found)),
        differences=[] if other is None else list(_differences(cuts, found, measures.per_phase)),
        data={
            "states": [state.word for state in PageState],
            "rank": [int(state) for state in RANK],
            "runs": [_data(run) for run in runs],
        },
    )


def _facts(run: Recording, measures: Measures) -> dict[str, Any]:
    """Return what the head of the report says about a run."""
    result = run.result
    levels = pages_by_state(run.records)[-1] if len(run.records) else np.zeros(4, np.int64)
    total = _memory_bytes(run) // PAGE_SIZE
    pages = [total + int(levels[0]), *levels[1:].tolist()]
    return {
        "title": run.title,
        "result": result,
        "events": len(run.records),
        "evidence": None
        if result is None or result.evidence is None
        else say_evidence(result.evidence),
        "restored": None
        if result is None or result.restored is None
        else say_restored(result.restored),
        "others": [] if result is None else others(result, measures),
        "memory": format_size(_memory_bytes(run)),
        "pages": [
            (state.word, count, share(count, total))
            for state, count in zip(PageState, pages, strict=True)
        ],
        "dropped": result.counters.events_dropped if result is not None else 0,
        "details": [] if result is None else list(details(result, measures)),
        "console": [] if result is None or result.outcome is Outcome.OK else run.console,
    }


def _memory_bytes(run: Recording) -> int:
    """What the machine was given: with the RAM between its slots, which a PC has below 1 MiB."""
    given = 0 if run.result is None else run.result.memory_bytes
    return given or max((slot.offset + slot.size for slot in run.names.slots), default=0)


def _total_pages(run: Recording) -> int:
    return sum(slot.size for slot in run.names.slots) // PAGE_SIZE


def _phases(run: Recording, measures: Measures) -> tuple[PhaseResult, ...]:
    """Return the phases of the result, which knows when the guest ended; else of the journal."""
    told = run.result.phases if run.result is not None else ()
    return told or phases(run.records, measures=measures)


@dataclass(frozen=True, slots=True)
class AccessTable:
    """Host accesses of one sort; ``total`` counts those that are not listed, too."""

    name: str
    title: str
    total: int
    rows: Sequence[HostAccess]


def _conversions(run: Recording) -> Sequence[Conversion]:
    names = run.names
    found = conversions(run.records, names.devices, names.functions.get, names.callers)
    return found[:CONVERSIONS_SHOWN]


def _guest_faults(run: Recording) -> Sequence[GuestFault]:
    """Return those of the result, which have the words of the specification; else of the journal."""
    if run.result is not None and run.result.guest_faults:
        return run.result.guest_faults
    names = run.names
    return guest_faults.guest_faults(
        run.records, names.functions.get, names.callers, devices=names.devices
    )


def _access_tables(run: Recording) -> Iterator[AccessTable]:
    """Yield the host faults, and the accesses that were allowed if there are any."""
    devices, resolve, callers = run.names.devices, run.names.functions.get, run.names.callers
    told = faults(run.records, devices, resolve, callers, limit=FAULTS_SHOWN)
    total = int(np.count_nonzero(host_faults(run.records)))
    yield AccessTable("faults", "Host faults", total, told)
    told = allowed(run.records, devices, resolve, callers, limit=FAULTS_SHOWN)
    if told:
        total = int(np.count_nonzero(is_event(run.records, ALLOWED_ACCESS)))
        yield AccessTable("allowed", "Allowed host accesses", total, told)


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase of the first run, and the one in the same place of the second."""

    phase: PhaseResult
    other: PhaseResult | None


def _phase_rows(cuts: Sequence[Sequence[PhaseResult]]) -> Iterator[PhaseRow]:
    second = {phase.name: phase for phase in cuts[1]} if len(cuts) > 1 else {}
    for phase in cuts[0]:
        yield PhaseRow(phase, second.get(phase.name))


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """A function of the guest; ``bar`` is its length in percent of the first one's."""

    function: Function
    other: Function | None
    bar: float


def _function_rows(found: Sequence[Sequence[Function]]) -> Iterator[FunctionRow]:
    second = {one.name: one for one in found[1]} if len(found) > 1 else {}
    most = max((one.weight for one in found[0]), default=1)
    for one in found[0][:FUNCTIONS_SHOWN]:
        yield FunctionRow(one, second.get(one.name), round(100 * one.weight / most, 1))


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of two runs: the one that is reported, and the one that it is compared with."""

    what: str
    first: int
    second: int

    @property
    def change(self) -> str:
        """How much more the reported run has."""
        if self.first == self.second:
            return "same"
        if not self.second:
            return f"+{self.first}"
        return f"{self.first - self.second:+} ({100 * (self.first / self.second - 1):+.1f} %)"


def _differences(
    cuts: Sequence[Sequence[PhaseResult]],
    found: Sequence[Sequence[Function]],
    rows: Sequence[Measure],
) -> Iterator[Difference]:
    """Compare phases, then functions: those that differ most come first."""
    by_name = [{phase.name: phase for phase in cut} for cut in cuts]
    for name in dict.fromkeys([*by_name[0], *by_name[1]]):
        for row in rows:
            pair = [cut[name].counters[row.name] if name in cut else 0 for cut in by_name]
            if any(pair):
                yield Difference(f"{name}: {row.label}", *pair)
    weights = [{one.name: one.weight for one in run} for run in found]
    names = {*weights[0], *weights[1]}
    pairs = [Difference(f"{n}()", weights[0].get(n, 0), weights[1].get(n, 0)) for n in names]
    changed = [one for one in pairs if one.first != one.second]
    yield from sorted(changed, key=lambda one: (-abs(one.second - one.first), one.what))[:20]


def _data(run: Recording) -> dict[str, Any]:
    """Return the data for the map; pages are numbered through all slots, without gaps."""
    seconds = guest_seconds(run.records)
    start = float(seconds[0]) if len(seconds) else 0.0
    slots = sorted(run.names.slots, key=lambda slot: slot.gpa)
    unit = 1
    while _total_pages(run) > unit * _MAX_UNITS:
        unit *= 2
    moved = changes(run.records, seconds)
    hits = host_faults(run.records)
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
