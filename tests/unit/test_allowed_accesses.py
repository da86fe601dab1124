# SPDX-License-Identifier: GPL-2.0-or-later
"""A host access that was allowed, as for gdb in a debuggable VM, is a host fault in no output."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest

from cvmlab.cli import main
from cvmlab.memory.journal import Journal, Ring
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.records import Actor, Kind, Phase, Verdict, event_word, is_event
from cvmlab.publish.metrics import Reading, Readings
from cvmlab.publish.telemetry import Message, pages_message, promised, summed_up
from cvmlab.publish.vm_feed import Feed
from cvmlab.report import html, junit, perfetto, text
from cvmlab.report.recording import load
from cvmlab.report.top.view_source import LiveSource
from cvmlab.results import baselines, blame, budgets, phases, summary, timeline
from cvmlab.results.baselines import Baselines
from cvmlab.results.budgets import Budget, Ending
from cvmlab.results.result import Result
from cvmlab.results.selection import Selection
from tests.fakes import journals as make
from tests.fakes.watched import FakeWatched


if TYPE_CHECKING:
    from cvmlab.vm.attached import AttachedVm


GDB = 7
DEVICES = {GDB: "gdb0", 3: "disk0"}


def looked_at(vtime_ns: int, gpa: int) -> make.Records:
    """The debugger reads private memory, and may."""
    record = make.fault(gpa, vtime_ns, device=GDB, vcpu=0)
    record["actor"], record["verdict"] = Actor.GDB, Verdict.ALLOW
    return record


def journal(*, with_fault: bool = False) -> make.Records:
    """Two allowed accesses in the kernel phase, and perhaps a denied one."""
    rows = [
        make.phase(Phase.KERNEL, 0),
        make.accepted(0, 5, 1000),
        looked_at(10**9, 0x1000),
        looked_at(10**9 + 5, 0x2000),
    ]
    denied = [make.fault(0x3000, 2 * 10**9)] if with_fault else []
    return make.journal(*rows, *denied, make.row(Kind.RESET, 3 * 10**9, pages=0))


def result_of(records: make.Records) -> Result:
    live = dict.fromkeys((row.name for row in MEASURES.live), 0)
    live["host_faults"] = int(is_event(records, "host-fault").sum())
    return msgspec.structs.replace(
        make.result(),
        counters=summary.counters(live, records),
        phases=phases.phases(records),
        faults=summary.faults(records, DEVICES, lambda _: None),
        allowed=summary.allowed(records, DEVICES, lambda _: None),
        functions=summary.functions(records, lambda _: None),
    )


def messages(records: make.Records) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for message in promised(records, DEVICES):
        found.setdefault(message.topic, []).extend(values(message)["events"])
    return found


def values(message: Message) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(message.payload))


def test_the_verdict_tells_them_apart() -> None:
    records = journal(with_fault=True)
    words = [event_word(one) for one in records[records["kind"] == Kind.HOST_FAULT]]
    assert words == ["allowed-access", "allowed-access", "host-fault"]
    assert is_event(records, "host-fault", "allowed-access").sum() == 3


def test_phases_and_counters() -> None:
    found = result_of(journal())
    (phase,) = found.phases
    assert (phase.counters.host_faults, phase.counters.allowed_accesses) == (0, 2)
    assert (found.counters.host_faults, found.counters.allowed_accesses) == (0, 2)


def test_the_lists_of_result_json() -> None:
    found = result_of(journal(with_fault=True))
    assert [one.gpa for one in found.faults] == [0x3000]
    assert [(one.actor, one.gpa, one.verdict) for one in found.allowed] == [
        ("gdb", 0x1000, "allow"), ("gdb", 0x2000, "allow"),
    ]  # fmt: skip
    assert [one.change for one in found.functions] == ["accepted"]


def test_the_text_report() -> None:
    said = text.render(result_of(journal()))
    assert "\nHost faults" not in said
    assert said.split("\n\n")[1].splitlines() == [
        "Phase        guest s   host s   accepted  to shared  to private  host faults"
        "  allowed accesses",
        "  kernel        3.00     3.00          5          0           0            0"
        "                 2",
    ]
    block = said[said.index("Allowed ") :].split("\n\n", maxsplit=1)[0]
    assert block.splitlines() == [
        "Allowed     2 host accesses, because the VM is debuggable; no host faults",
        "  gdb gdb0",
        "    read 0x1000 (private): allow, guest in 0xffffffff81000000",
        "    read 0x2000 (private): allow, guest in 0xffffffff81000000",
    ]


def test_the_html_report(tmp_path: Path) -> None:
    records = journal()
    folder = make.run_folder(tmp_path / "run", records, made=result_of(records))
    page = html.render(load(folder))
    faults, allowed = page.split('<table id="allowed"')
    assert "<h2>Host faults <small>0</small></h2>" in faults
    assert "none: the host touched no private memory, except for" in faults
    assert '<table id="faults"' not in page
    assert allowed.count("<td>allow<td>") == 2
    assert '"fault_page": ""' in page
    functions = {one.name: one.counts for one in timeline.functions(records, make.NAMES)}
    assert functions["iowrite16"]["host_faults"] == 0
    assert functions["iowrite16"]["allowed_accesses"] == 2


def test_the_trace() -> None:
    stream = io.StringIO()
    perfetto.write_trace(stream, journal(), make.NAMES, title="run")
    events = json.loads(stream.getvalue())["traceEvents"]
    levels = {one["name"]: one["args"]["value"] for one in events if one["ph"] == "C"}
    assert (levels["host faults"], levels["allowed accesses"]) == (0, 2)
    instants = [(one["name"], one["cat"]) for one in events if one["ph"] == "i"]
    assert instants.count(("allowed-access", "access")) == 2
    assert "host-fault" not in {name for name, _ in instants}


def test_junit() -> None:
    root = ET.fromstring(junit.document([junit.Case.of("boot", result_of(journal()), "")]))
    found = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert found["cvmlab.host_faults"] == "0"
    assert found["cvmlab.allowed_accesses"] == "2"


def test_mqtt(tmp_path: Path) -> None:
    found = messages(journal())
    assert "event/fault" not in found
    assert [one["kind"] for one in found["event/allowed"]] == ["allowed-access"] * 2
    sums = values(summed_up(journal()))
    assert (sums["host_faults"], sums["allowed_accesses"]) == (0, 2)
    vm = FakeWatched(tmp_path)
    vm.pages.counted["host_faults"] = 0
    vm.write(journal())
    with Feed(vm) as feed:
        feed.read_on()
        counters = values(pages_message(vm.pages.counts(), feed.counters()))["counters"]
    assert (counters["host_faults"], counters["allowed_accesses"]) == (0, 2)


def test_prometheus(tmp_path: Path) -> None:
    vm, readings = FakeWatched(tmp_path), Readings()
    vm.pages.counted["host_faults"] = 0
    vm.write(journal())
    with Feed(vm) as feed:
        readings.now = {"lab": Reading.of(feed)}
        readings.now = {"lab": Reading.of(feed)}  # it counts on, not again
    samples = [one for family in readings.collect() for one in family.samples]
    found = {one.labels.get("kind"): one.value for one in samples}
    assert (found["host_faults"], found["allowed_accesses"]) == (0, 2)


def test_budgets_and_baselines() -> None:
    found, fault = result_of(journal()), result_of(journal(with_fault=True))
    option = MEASURES.budget("faults")
    given = [Budget.parse(option, "0"), Budget.parse(option, "kernel=0")]
    lines = budgets.measure(given, found.counters, found.phases)
    assert [line.measured for line in lines] == [0, 0]
    assert budgets.judge(Ending(), lines).exit_code == 0
    broken = budgets.measure(given, fault.counters, fault.phases)
    who = blame.Evidence(fault.faults).of(broken[1])
    assert who is not None
    assert "0x3000" in who
    (entry,) = baselines.updated(Baselines(), [result_of(make.journal())]).boots.values()
    assert all("fault" not in one for one in baselines.regressions(entry, _exact(), found))


def _exact() -> baselines.Tolerance:
    return baselines.Tolerance(percent=0, pages=1000)


async def test_the_live_view_lists_faults_only(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path)
    vm.write(journal(with_fault=True))
    lines = await LiveSource(cast("AttachedVm", vm)).new_faults()
    assert len(lines) == 1
    assert "0x3000" in lines[0]


def test_a_selection_and_the_command_have_a_word_for_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = journal(with_fault=True)
    everything = Selection.all_of(records, DEVICES)
    assert len(everything.where(kind="host-fault")) == 1
    assert len(everything.where(kind="allowed-access")) == 2
    folder = make.run_folder(tmp_path / "run", records)
    assert main(("events", f"{folder}/", "--kind", "host-fault")) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(("events", f"{folder}/", "--kind", "allowed-access", "--json")) == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["allowed-access"] * 2


def test_the_first_faults_of_a_live_journal(tmp_path: Path) -> None:
    records = journal(with_fault=True)
    file = tmp_path / "ring"
    data = np.zeros(4096 // 64 + 16, records.dtype)
    data[64 : 64 + len(records)] = records
    file.write_bytes(data.tobytes())
    with file.open("r+b") as opened:
        ring = Ring(opened.fileno())
        ring._header["head"] = len(records)
        follower = Journal(ring, tmp_path / "events.bin")
        follower.drain()
        assert [int(one["gpa"]) for one in follower.first_faults] == [0x3000]
        follower.close()
        ring.close()
