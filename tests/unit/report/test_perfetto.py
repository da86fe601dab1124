# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace: what is on which track, and that a viewer can read it."""

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from cvmlab.cli import main
from cvmlab.report.perfetto import trace_events, write_trace
from tests.fakes import journals as make


Event = dict[str, Any]


def events_of(records: make.Records) -> list[Event]:
    return list(trace_events(records, make.NAMES, title="guest"))


def track_names(events: list[Event]) -> dict[tuple[int, int], str]:
    return {
        (one["pid"], one["tid"]): one["args"]["name"]
        for one in events
        if one["name"] == "thread_name"
    }


def on(events: list[Event], track: str) -> list[Event]:
    names = track_names(events)
    return [
        one for one in events
        if one["ph"] in "Xi" and names[one["pid"], one["tid"]] == track
    ]  # fmt: skip


def test_phases_are_slices_on_their_own_track() -> None:
    phases = on(events_of(make.small()), "boot phases")
    assert [(one["name"], one["ts"], one["dur"]) for one in phases] == [
        ("firmware", 0.0, 1e6), ("kernel", 1e6, 1e6), ("user", 2e6, 1e6),
    ]  # fmt: skip


def test_bursts_of_acceptance_are_one_slice() -> None:
    slices = [one for one in on(events_of(make.small()), "vCPU 0") if one["name"] == "accept"]
    assert [(one["args"]["pages"], one["args"]["steps"]) for one in slices] == [
        (50, 50),
        (200, 200),
    ]


def test_conversions_say_where_in_the_guest() -> None:
    found = on(events_of(make.small()), "vCPU 0")
    shared = [one for one in found if one["name"] == "convert to shared"]
    assert [one["args"]["function"] for one in shared] == [
        "set_memory_decrypted+0x20", "set_memory_decrypted+0xa0",
    ]  # fmt: skip
    assert shared[0]["args"] | {"gpa": "0x64000", "pages": 8} == shared[0]["args"]


def test_a_fault_is_on_the_vcpu_that_was_there_or_on_the_device() -> None:
    events = events_of(make.small())
    (inside,) = [one for one in on(events, "vCPU 0") if one["ph"] == "i"]
    (outside,) = on(events, "net0-pci")
    assert inside["args"] == {
        "gpa": "0x78000", "function": "iowrite16+0xd", "device": "disk0", "access": "read",
        "verdict": "deny",
    }  # fmt: skip
    assert outside["args"]["device"] == "net0-pci"


def test_counters_end_at_the_last_level() -> None:
    levels: dict[str, list[int]] = defaultdict(list)
    for one in events_of(make.small()):
        if one["ph"] == "C":
            levels[one["name"]].append(one["args"]["value"])
    assert {name: values[-1] for name, values in levels.items()} == {
        "private pages": 262, "shared pages": 4, "accepted pages": 250,
        "pages converted to shared": 12, "pages converted to private": 8, "host faults": 2,
    }  # fmt: skip


def test_slices_of_a_track_never_cross() -> None:
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for one in events_of(make.large(5_000)):
        if one["ph"] == "X":
            tracks[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"]))
    assert len(tracks) == 5  # phases, four vCPUs
    for spans in tracks.values():
        ends = [end for _, end in spans]
        starts = [start for start, _ in spans]
        assert all(
            after >= before - 0.002 for before, after in zip(ends[:-1], starts[1:], strict=True)
        )


def test_a_long_run_makes_a_trace_of_modest_size() -> None:
    stream = io.StringIO()
    written = write_trace(stream, make.large(20_000), make.NAMES, title="large")
    document = json.loads(stream.getvalue())
    assert len(document["traceEvents"]) == written
    assert document["otherData"]["emulated"] is True
    assert len(stream.getvalue()) < 6 << 20


def test_an_empty_journal_is_a_trace_too() -> None:
    stream = io.StringIO()
    write_trace(stream, make.journal(), make.NAMES, title="none")
    assert {one["ph"] for one in json.loads(stream.getvalue())["traceEvents"]} == {"M"}


def test_report_writes_a_trace_of_a_folder(tmp_path: Path) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    trace = tmp_path / "out.json"
    words = ("report", str(folder), "-o", str(tmp_path / "r.html"), "--trace", str(trace))
    assert main(words) == 0
    assert json.loads(trace.read_text())["otherData"]["title"] == "run"
