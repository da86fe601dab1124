# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal in the Chrome JSON trace format, which ui.perfetto.dev and chrome://tracing open.

Tracks: boot phases; one for each vCPU, with acceptance, conversions and faults; one for each device
and other actor of the host; counters.  Times are microseconds of guest time.  Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from cvmlab.memory.counting import amounts
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import (
    ALLOWED_ACCESS,
    FLAG_WRITE,
    NO_DEVICE,
    NO_VCPU,
    Actor,
    Kind,
    Verdict,
    changed_pages,
    event_word,
)
from cvmlab.memory.states import PageState, RefusalCode
from cvmlab.results.timeline import (
    Names,
    Records,
    Seconds,
    guest_seconds,
    pages_by_state,
    phase_spans,
)


_GUEST, _HOST = 1, 2  # "processes" of the trace
_PHASES, _VCPU, _DEVICE, _ACTOR = 1, 100, 1000, 100_000  # "threads", by what they stand for
_US = 1e6
_BURST_GAP_S = 100e-6  # steps of a kind that follow each other so closely are one slice
_SHORTEST_US = 0.1  # a slice of no length cannot be clicked on
_COUNTER_SAMPLES = 4000
_INSTANTS = (Kind.HOST_FAULT, Kind.GUEST_FAULT, Kind.VIOLATION, Kind.RESET, Kind.POLICY)

Event = dict[str, Any]


def write_trace(
    stream: TextIO, records: Records, names: Names, *, title: str, measures: Measures = MEASURES
) -> int:
    """Write the trace of *records* (dtype RECORD, in order of seq); return how many events."""
    stream.write('{"displayTimeUnit":"ms","otherData":{"emulated":true,"title":')
    stream.write(f'{json.dumps(title)}}},"traceEvents":[\n')
    written = 0
    for event in trace_events(records, names, title=title, measures=measures):
        stream.write((",\n" if written else "") + json.dumps(event, separators=(",", ":")))
        written += 1
    stream.write("\n]}\n")
    return written


def trace_events(
    records: Records, names: Names, *, title: str, measures: Measures = MEASURES
) -> Iterator[Event]:
    """Yield the events of the trace."""
    seconds = guest_seconds(records)
    tracks = _tracks(records)
    yield from _track_names(tracks, names, title)
    for span in phase_spans(records, seconds):
        yield _slice(span.name, "phase", (_GUEST, _PHASES), span.start, span.end)
    for track in np.unique(tracks).tolist():
        mine = tracks == track
        yield from _bursts(records[mine], seconds[mine], names, _place(track))
    for at in np.flatnonzero(np.isin(records["kind"], _INSTANTS)).tolist():
        yield _instant(records[at], float(seconds[at]), names, _place(int(tracks[at])))
    yield from _counters(records, seconds, measures)


def _tracks(records: Records) -> npt.NDArray[np.int64]:
    """Return the track of each record: that of the vCPU, if one did it or was running then."""
    vcpu, device = records["vcpu"].astype(np.int64), records["device"].astype(np.int64)
    host = np.where(
        device != NO_DEVICE, _DEVICE + device, _ACTOR + records["actor"].astype(np.int64)
    )
    by_host = (vcpu == NO_VCPU) | np.isin(records["actor"], (Actor.LOADER, Actor.MONITOR))
    return np.where(by_host, host, _VCPU + vcpu)


def _place(track: int) -> tuple[int, int]:
    return (_GUEST if track < _DEVICE else _HOST), track


def _track_names(tracks: npt.NDArray[np.int64], names: Names, title: str) -> Iterator[Event]:
    for pid, name in ((_GUEST, f"guest: {title}"), (_HOST, "host")):
        yield _name("process_name", pid, 0, name)
    yield _name("thread_name", _GUEST, _PHASES, "boot phases")
    for track in np.unique(tracks).tolist():
        yield _name("thread_name", *_place(track), _track_name(track, names))
        yield {
            "ph": "M", "name": "thread_sort_index", "pid": _place(track)[0], "tid": track,
            "args": {"sort_index": track},
        }  # fmt: skip


def _track_name(track: int, names: Names) -> str:
    if track >= _ACTOR:
        return Actor(track - _ACTOR).word
    if track >= _DEVICE:
        return names.devices.get(track - _DEVICE, f"device #{track - _DEVICE}")
    return f"vCPU {track - _VCPU}"


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


@dataclass(frozen=True, slots=True)
class _Burst:
    """Records ``[first, last]`` of a track that are shown as one slice."""

    first: int
    last: int
    pages: int


def _bursts(
    records: Records, seconds: Seconds, names: Names, place: tuple[int, int]
) -> Iterator[Event]:
    chosen = changed_pages(records)
    steps, times = records[chosen], seconds[chosen]
    if not len(steps):
        return
    alike = np.ones(len(steps) - 1, np.bool_)
    for field in ("kind", "from", "to", "rip", "stack"):
        alike &= steps[field][1:] == steps[field][:-1]
    alike &= np.diff(times) < _BURST_GAP_S
    firsts = np.concatenate(([0], np.flatnonzero(~alike) + 1))
    lasts = np.append(firsts[1:], len(steps)) - 1
    pages = np.add.reduceat(steps["pages"].astype(np.int64), firsts)
    limits = np.append(times[firsts[1:]], np.inf).tolist()
    for first, last, count, limit in zip(
        firsts.tolist(), lasts.tolist(), pages.tolist(), limits, strict=True
    ):
        start = float(times[first])
        # It must end before the next one starts: slices of a track must not cross.
        end = min(max(float(times[last]), start + _SHORTEST_US / _US), limit)
        record = steps[first]
        args = _step_args(steps, _Burst(first, last, count), names)
        yield _slice(_step_name(record), "memory", place, start, end, args)


def _step_name(record: np.void) -> str:
    kind = Kind(int(record["kind"]))
    if kind is Kind.CONVERT:
        return f"convert to {PageState(int(record['to'])).word}"
    return kind.word


def _step_args(steps: Records, burst: _Burst, names: Names) -> Mapping[str, object]:
    record = steps[burst.first]
    args: dict[str, object] = {
        "gpa": f"{int(record['gpa']):#x}",
        "pages": burst.pages,
        "steps": burst.last - burst.first + 1,
        "from": PageState(int(record["from"])).word,
        "to": PageState(int(record["to"])).word,
    }
    return args | _where(record, names)


def _where(record: np.void, names: Names) -> dict[str, object]:
    rip, stack = int(record["rip"]), int(record["stack"])
    if not rip:
        return {}
    callers = names.callers
    above = callers.above(stack)
    function = callers.blamed(stack, names.functions.get(rip)) or f"{rip:#x}"
    return {"function": function, **({"called_by": ", ".join(above)} if above else {})}


def _instant(record: np.void, second: float, names: Names, place: tuple[int, int]) -> Event:
    kind, device = Kind(int(record["kind"])), int(record["device"])
    args: dict[str, object] = {"gpa": f"{int(record['gpa']):#x}", **_where(record, names)}
    if device != NO_DEVICE:
        args["device"] = names.devices.get(device, f"#{device}")
    if kind is Kind.HOST_FAULT:
        args["access"] = "write" if record["flags"] & FLAG_WRITE else "read"
    if kind in (Kind.HOST_FAULT, Kind.POLICY):
        args["verdict"] = Verdict(int(record["verdict"])).word
    if kind is Kind.VIOLATION:
        args["rule"] = RefusalCode(int(record["refusal"])).word
    name = event_word(record)
    category = "access" if name == ALLOWED_ACCESS else "fault"
    return {
        "ph": "i", "s": "t", "cat": category, "name": name, "pid": place[0], "tid": place[1],
        "ts": _us(second), "args": args,
    }  # fmt: skip


def _slice(
    name: str, category: str, place: tuple[int, int], start: float, end: float,
    args: Mapping[str, object] | None = None,
) -> Event:  # fmt: skip
    return {
        "ph": "X", "cat": category, "name": name, "pid": place[0], "tid": place[1],
        "ts": _us(start), "dur": round(_us(end) - _us(start), 3), "args": dict(args or {}),
    }  # fmt: skip


def _us(seconds: float) -> float:
    return round(seconds * _US, 3)


def _counters(records: Records, seconds: Seconds, measures: Measures) -> Iterator[Event]:
    """Yield the levels of each counter: at most a few thousand, only changes, and the last one."""
    if not len(records):
        return
    step = -(-len(records) // _COUNTER_SAMPLES)
    at = np.union1d(np.arange(0, len(records), step), [len(records) - 1])
    for name, levels in _levels(records, measures):
        sampled = levels[at]
        keep = np.ones(len(at), np.bool_)
        keep[1:-1] = sampled[1:-1] != sampled[:-2]
        for second, level in zip(seconds[at][keep].tolist(), sampled[keep].tolist(), strict=True):
            yield {
                "ph": "C", "name": name, "pid": _GUEST, "ts": _us(second), "args": {"value": level}
            }  # fmt: skip


def _levels(records: Records, measures: Measures) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Yield the lanes: pages in the states that matter, and each measure per phase summed up."""
    pages = pages_by_state(records)
    for state in (PageState.PRIVATE, PageState.SHARED):
        yield f"{state.word} pages", pages[:, state]
    for row, added in amounts(records, measures.per_phase):
        levels = np.cumsum(added)
        if row.always or levels[-1]:
            yield row.many, levels
