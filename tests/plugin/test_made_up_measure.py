# SPDX-License-Identifier: GPL-2.0-or-later
"""One row in the table of measures, and one line of C for its counter, reach every output."""

import asyncio
import ctypes
import io
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pytest
from textual.widgets import Static

from cvmlab.base.resources import plugin_dir
from cvmlab.machine.option_rows import budget_options
from cvmlab.memory.journal import Ring
from cvmlab.memory.measures import MEASURES, BudgetOption, Measure, RecordRule
from cvmlab.memory.records import Kind, Phase
from cvmlab.publish.metrics import Reading, Readings
from cvmlab.publish.telemetry import pages_message, summed_up
from cvmlab.publish.vm_feed import Feed
from cvmlab.report import html, junit, perfetto, text
from cvmlab.report.recording import load
from cvmlab.report.top.app import Top
from cvmlab.results import baselines, budgets, phases, result, summary
from cvmlab.results.baselines import Baselines
from cvmlab.results.blame import Evidence
from cvmlab.results.budgets import Budget, Ending
from cvmlab.results.result import Result
from tests.fakes import journals as make
from tests.fakes.live import FakeSource
from tests.fakes.watched import FakeWatched
from tests.plugin.conftest import compile_core
from tests.plugin.core import Core, Library


ROW = Measure(
    name="made_up", label="made up", one="made-up thing", many="made-up things",
    help="what a test made up", slot=len(MEASURES.slots), rule=RecordRule(kind="invalidate"),
    per_phase=True, baseline=True,
    budget=BudgetOption(
        word="inventions", one="made-up thing", many="made-up things", limits="made-up things"
    ),
)  # fmt: skip
LINE = "    RMEM_C_MADE_UP,\n"
USE = "\nvoid made_up(Rmem *rm)\n{\n    rmem_count(rm, RMEM_C_MADE_UP, 1);\n}\n"
TABLE = MEASURES.with_rows(ROW)
NUMBER = 3


@dataclass(frozen=True)
class Run:
    """What a run with the longer table left."""

    live: dict[str, int]
    records: make.Records
    result: Result
    folder: Path


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, build_dir: Path) -> Core:
    """The core with one more counter, and a function that counts it."""
    del build_dir  # it knows what to do without a compiler
    folder = tmp_path_factory.mktemp("longer")
    copy = Path(copytree(plugin_dir() / "core", folder / "core"))
    header, source = copy / "rmem.h", copy / "marks.c"
    before, after = header.read_text().split("    RMEM_COUNTERS = ")
    header.write_text(f"{before}{LINE}    RMEM_COUNTERS = {after}")
    source.write_text(source.read_text() + USE)
    compile_core(copy, folder)
    return Core(Library(folder / "librmem.so"), "generic", 1024)


@pytest.fixture(scope="module")
def run(core: Core, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Count in C, journal the same, and judge."""
    core.push(make.phase(Phase.KERNEL, 0))
    for number in range(NUMBER):
        core.c.made_up(ctypes.byref(core.rm))
        core.push(make.row(Kind.INVALIDATE, 1000 + number, vcpu=0, rip=make.KERNEL))
    records = core.drain()
    with closing(Ring(core.ring_file.fd)) as ring:
        live = ring.counters(TABLE)
    counters = summary.counters(live, records, TABLE)
    cut = phases.phases(records, measures=TABLE)
    assert ROW.budget is not None
    given = [Budget.parse(ROW.budget, "2"), Budget.parse(ROW.budget, "kernel=3")]
    made = msgspec.structs.replace(
        make.result(), counters=counters, phases=cut, guest="made-up",
        budgets=budgets.measure(given, counters, cut, TABLE),
    )  # fmt: skip
    folder = make.run_folder(tmp_path_factory.mktemp("run"), records, made=made)
    return Run(live, records, made, folder)


@pytest.fixture
def feed(run: Run, tmp_path: Path) -> Iterator[Feed]:
    vm = FakeWatched(tmp_path)
    vm.pages.counted = run.live
    vm.write(run.records)
    with Feed(vm, TABLE) as made:
        yield made


def test_the_line_of_c_is_counted(run: Run) -> None:
    assert run.live["made_up"] == NUMBER


def test_the_result_and_its_schema(run: Run) -> None:
    document = json.loads(result.to_json(run.result))
    jsonschema.validate(document, result.schema(TABLE))
    assert document["counters"]["made_up"] == NUMBER
    assert document["phases"][0]["counters"]["made_up"] == NUMBER
    assert result.from_json(json.dumps(document), TABLE).counters["made_up"] == NUMBER
    properties = result.schema(TABLE)["$defs"]["Counters"]["properties"]
    assert properties["made_up"]["description"] == ROW.help
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, result.schema())


def test_the_text_report(run: Run) -> None:
    head, line = text.render(run.result, measures=TABLE).split("\n\n")[1].splitlines()
    assert head.split()[-2:] == ["made", "up"]
    assert line.split()[-1] == str(NUMBER)
    assert len(head) == len(line)


def test_the_html_report(run: Run) -> None:
    page = html.render(load(run.folder, TABLE), None, TABLE)
    assert page.count("<th>made up") == 2  # phases, and functions
    assert '<g class="lane made_up">' in page
    both = html.render(load(run.folder, TABLE), load(run.folder, TABLE), TABLE)
    assert "<td>kernel: made up<td>3" in both


def test_the_trace(run: Run) -> None:
    stream = io.StringIO()
    perfetto.write_trace(stream, run.records, make.NAMES, title="run", measures=TABLE)
    events: list[dict[str, Any]] = json.loads(stream.getvalue())["traceEvents"]
    levels = [one["args"]["value"] for one in events if one["name"] == ROW.many]
    assert levels[-1] == NUMBER


def test_junit(run: Run) -> None:
    root = ET.fromstring(junit.document([junit.Case.of("boot", run.result, "")]))
    values = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert values["cvmlab.made_up"] == str(NUMBER)


def test_mqtt(run: Run, feed: Feed) -> None:
    assert json.loads(summed_up(run.records, TABLE).payload)["made_up"] == NUMBER
    pages = json.loads(pages_message(feed.vm.pages.counts(), feed.counters()).payload)
    assert pages["counters"]["made_up"] == NUMBER


def test_prometheus(feed: Feed) -> None:
    readings = Readings(TABLE)
    readings.now = {"lab": Reading.of(feed)}
    events = next(family for family in readings.collect() if family.name == "cvmlab_events")
    values = {sample.labels["kind"]: sample.value for sample in events.samples}
    assert values["made_up"] == NUMBER
    assert ROW.help in events.documentation


def test_the_option_of_a_budget() -> None:
    (option,) = [one for one in budget_options(TABLE) if one.name == "max_inventions"]
    assert option.label == "--max-inventions"
    assert option.help.startswith("Limit on made-up things")


def test_a_budget(run: Run) -> None:
    whole, kernel = run.result.budgets
    assert (whole.kept, kernel.kept) == (False, True)
    verdict = budgets.judge(Ending(), run.result.budgets, Evidence(measures=TABLE).of, TABLE)
    assert (verdict.exit_code, verdict.message) == (80, "3 made-up things, 2 are allowed")
    assert "Budget      3 made-up things in phase kernel, 3 are allowed: kept" in text.render(
        run.result, measures=TABLE
    )


def test_a_baseline(run: Run) -> None:
    known = baselines.updated(Baselines(), [run.result], TABLE)
    written = baselines.parse(json.loads(baselines.to_json(known)), "base.json", TABLE)
    (entry,) = written.boots.values()
    assert list(baselines.regressions(entry, written.tolerance, run.result, TABLE)) == []
    before = msgspec.structs.replace(entry, phases={})
    assert list(baselines.regressions(before, written.tolerance, run.result, TABLE)) == [
        "3 made-up things in phase kernel: the baseline is 0, 0 are allowed"
    ]


async def test_the_live_view(tmp_path: Path) -> None:
    source = FakeSource()
    source.counters["made_up"] = NUMBER
    app = Top(source, folder=tmp_path, refresh_s=3600, measures=TABLE)
    async with app.run_test(size=(100, 30)), asyncio.timeout(20):
        await app.look()
        assert "made up 0/s" in str(app.query_one("#rates", Static).visual)


def test_a_counter_that_no_record_tells_is_shown_too(run: Run) -> None:
    row = Measure(
        name="silent", label="silent", one="silent thing", many="silent things", help="no record",
        slot=len(TABLE.slots),
    )  # fmt: skip
    table = TABLE.with_rows(row)
    counters = summary.counters({**run.live, "silent": 2}, run.records, table)
    told = msgspec.structs.replace(run.result, counters=counters, budgets=())
    assert "Also        2 silent things" in text.render(told, measures=table).splitlines()
    folder = make.run_folder(run.folder / "silent", run.records, made=told)
    assert "<dt>Also</dt><dd>2 silent things</dd>" in html.render(load(folder, table), None, table)
