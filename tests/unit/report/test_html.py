# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML report: what is in it.  How it looks is a matter of tests/tools."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cvmlab.cli import main
from cvmlab.memory.ranges import Slot
from cvmlab.memory.replay import replay
from cvmlab.memory.states import profiles
from cvmlab.report.drawing import timeline
from cvmlab.report.html import render
from cvmlab.report.recording import load
from cvmlab.results.result import Outcome
from cvmlab.results.timeline import ALL_PENDING
from tests.fakes import journals as make


def rendered(tmp_path: Path, records: make.Records, **changes: object) -> str:
    folder = make.run_folder(tmp_path / "run", records, made=make.result(**changes))
    return render(load(folder))


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def column(run: Any, name: str, kind: str) -> Any:
    return np.frombuffer(base64.b64decode(run[name]), kind).tolist()


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    text = rendered(tmp_path, make.small())
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_what_the_guest_named_cannot_become_markup(tmp_path: Path) -> None:
    folder = make.run_folder(tmp_path / "</script><b>", make.small())
    text = render(load(folder))
    assert "<b>" not in text.replace("<b>0", "")
    assert "&lt;b&gt;" in text


def test_the_map_is_made_of_the_changes(tmp_path: Path) -> None:
    """Playing the page's data must end where the table must be."""
    records = make.small()
    (run,) = data_of(rendered(tmp_path, records))["runs"]
    table = np.zeros(make.GIB // make.PAGE, np.uint8)
    columns = [column(run, "page", "<u4"), column(run, "count", "<u4"), column(run, "state", "u1")]
    for page, count, state in zip(*columns, strict=True):
        assert state != ALL_PENDING
        table[page : page + count] = state
    rules = profiles()["generic"]
    expected = replay(records, rules, [Slot(0, 0, make.GIB)], len(table)).table & 3
    assert np.array_equal(table, expected)
    assert column(run, "fault_page", "<u4") == [120, 121]


def test_a_failure_is_said_first(tmp_path: Path) -> None:
    text = rendered(
        tmp_path, make.small(), outcome=Outcome.HOST_FAULT, exit_code=81, message="2 host faults"
    )
    assert '<p class="verdict bad">FAILED: 2 host faults (exit code 81)</p>' in text


def test_dropped_events_are_owned_up_to(tmp_path: Path) -> None:
    text = rendered(tmp_path, make.small(), counters={"events_dropped": 7})
    assert "<b>7 were dropped</b>" in text


def test_a_huge_guest_is_shown_more_coarsely(tmp_path: Path) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / "names.json").write_text(
        '{"slots": [{"gpa": 0, "offset": 0, "size": 1099511627776}]}'
    )
    (run,) = data_of(render(load(folder)))["runs"]
    assert run["unit"] == 64


def test_a_folder_without_names_or_result_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / "names.json").unlink()
    (folder / "result.json").unlink()
    text = render(load(folder))
    assert "the run had not ended" in text
    assert "#4" in text


def test_lanes_are_drawn_to_a_common_time() -> None:
    drawn = timeline(make.small(), make.large(1000))
    assert [box.name for box in drawn.boxes] == ["firmware", "kernel", "user"]
    assert [(lane.name, lane.total) for lane in drawn.lanes] == [
        ("accepted", 250), ("to shared", 12), ("to private", 8), ("host faults", 2),
    ]  # fmt: skip
    assert [tick.text for tick in drawn.ticks][:3] == ["0.0 s", "0.5 s", "1.0 s"]
    assert all(lane.other for lane in drawn.lanes if lane.name != "to private")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "{0}"), "cvmlab: {0} has no events.bin\nhint: give the folder of a run"),
        (("report", "{0}/run", "-o", "{0}/no/r.html"), "cvmlab: {0}/no/r.html cannot be written"),
        (("boot", "--html", "{0}/no/r.html"), "cvmlab: {0}/no/r.html cannot be written"),
        (("boot", "--trace", "{0}"), "cvmlab: {0} cannot be written: it is a folder"),
    ],
)
def test_mistakes_are_said(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make.run_folder(tmp_path / "run", make.small())
    assert main([word.format(tmp_path) for word in words]) == 85
    assert capsys.readouterr().err.startswith(message.format(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\xff" * 128, "record 0 is of unknown kind 255"),
        (b"cut", "it is cut short"),
    ],
)
@pytest.mark.parametrize("command", ["report", "events"])
def test_a_damaged_journal_is_said(
    command: str, damage: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / "events.bin").write_bytes(damage)
    assert main((command, f"{folder}/")) == 85
    assert capsys.readouterr().err == (
        f"cvmlab: {folder}/events.bin is not a journal of cvmlab: {message}\nhint: run the guest again\n"
    )


def test_report_compares_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make.run_folder(tmp_path / "one", make.small())
    two = make.run_folder(tmp_path / "two", make.large(1000))
    path = tmp_path / "both.html"
    assert main(("report", str(one), "--compare", str(two), "-o", str(path))) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    text = path.read_text()
    assert "compared with two" in text
    assert "<td>set_memory_decrypted()" in text


def test_the_machine_has_the_memory_it_was_given(tmp_path: Path) -> None:
    """Slots are less: a PC keeps 384 KiB below 1 MiB for itself.  They are all that an old run has."""
    given = rendered(tmp_path, make.small(), memory_bytes=2 * make.GIB)
    assert "seabios, 1 CPU, 2G</dd>" in given
    unknown = rendered(tmp_path, make.small(), memory_bytes=0)
    assert "seabios, 1 CPU, 1G</dd>" in unknown


@pytest.mark.fault("V4")
def test_growth_is_shown_as_growth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = make.run_folder(tmp_path / "old", make.small())
    new = make.run_folder(tmp_path / "new", make.large(1000))
    path = tmp_path / "both.html"
    assert main(("report", str(new), "--compare", str(old), "-o", str(path))) == 0
    table = re.search(r'<table id="differences">(.*?)</table>', path.read_text(), re.DOTALL)
    assert table is not None
    rows = re.findall(r'<tr class="(\w+)"><td>([^<]*)<td>([^<]*)<td>([^<]*)<td>([^<]*)', table[1])
    for css, what, mine, earlier, change in rows:
        difference = int(mine.replace(" ", "")) - int(earlier.replace(" ", ""))
        sign = "same" if difference == 0 else f"{difference:+}"
        assert change.split(" ")[0] == sign, what
        assert css == ("same" if difference == 0 else "more" if difference > 0 else "less")
    assert any(row[0] == "more" for row in rows)


@pytest.mark.fault("A1")
def test_pages_between_the_slots_are_counted_once(tmp_path: Path) -> None:
    """A TD accepts the 96 pages of a PC's shadow RAM as well; they are in no slot."""
    folder = make.run_folder(
        tmp_path / "run",
        make.journal(make.accepted(0, 512, 1000)),
        made=make.result(memory_bytes=0),
    )
    low, high = Slot(0, 0, 0xA0000), Slot(0x100000, 0x100000, 0x100000)
    run = replace(load(folder), names=msgspec.structs.replace(make.NAMES, slots=(low, high)))
    assert "pending</dt><dd>0 pages, " in render(run)
