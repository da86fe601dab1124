# SPDX-License-Identifier: GPL-2.0-or-later
"""The live view, driven by Textual's pilot at 80x24."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot

from cvmlab.base.errors import PluginError
from cvmlab.cli import main
from cvmlab.memory.ranges import GpaRange
from cvmlab.memory.records import Phase
from cvmlab.memory.states import PageState
from cvmlab.report.top.app import Top
from cvmlab.vm.operations import Target
from tests.fakes.live import GAP, FakeSource


SIZE = (80, 24)
Shown = Pilot[None]
NEVER_S = 3600.0


@asynccontextmanager
async def shown(
    source: FakeSource, folder: Path = Path(), size: tuple[int, int] = SIZE
) -> AsyncIterator[Shown]:
    # It looks when a test says so: an app at rest is what the pilot waits for after each key.
    app = Top(source, folder=folder, refresh_s=NEVER_S)
    async with app.run_test(size=size, notifications=True) as pilot:
        await refreshed(pilot)
        yield pilot


async def refreshed(pilot: Shown) -> None:
    """Have what was asked for done, and shown."""
    assert isinstance(pilot.app, Top)
    await pilot.app.workers.wait_for_complete()
    await pilot.app.look()
    await pilot.pause()


def screen(pilot: Shown) -> list[str]:
    """The lines of text on the screen."""
    width, height = pilot.app.size
    strips = pilot.app.screen._compositor.render_strips()
    lines = ["".join(segment.text for segment in strip) for strip in strips]
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    return lines


def said(pilot: Shown) -> list[str]:
    """What the program told the user in passing."""
    return [one.message for one in pilot.app._notifications]


async def test_all_of_it_fits_80_by_24() -> None:
    source = FakeSource()
    source.table[:3000] = PageState.PRIVATE
    source.table[3000:3100] = PageState.SHARED
    source.faults = ["1.5 device disk0 read private 0x5000: deny at 0xffffffff81000000"]
    async with shown(source) as pilot:
        lines = screen(pilot)
    assert lines[0].split() == ["cvmlab", "top", "lab", "generic", "128M", "running", "(emulated)"]
    assert re.sub(r"\s+", " ", lines[1]).strip() == "launch > firmware > kernel > user"
    assert "private 9.2 %" in lines[2]
    assert "shared 0.3 %" in lines[2]
    assert "accepted 0/s" in lines[3]
    assert lines[4].startswith("0x000000000000 ██")
    assert any(line.startswith(f"{GAP:#014x}"[:5]) for line in lines[5:15])
    assert any("disk0 read private 0x5000" in line for line in lines)
    for key in ("Select", "Zoom", "Share", "Private", "Pause", "Write map", "Quit"):
        assert key in lines[-1]


async def test_the_efi_stub_is_shown_while_it_runs() -> None:
    source = FakeSource()
    source.phase = Phase.EFI_STUB
    async with shown(source) as pilot:
        lines = screen(pilot)
    assert "firmware > efi-stub > kernel" in re.sub(r"\s+", " ", lines[1])


async def test_the_cursor_says_which_memory_it_is_on() -> None:
    async with shown(FakeSource()) as pilot:
        lines = screen(pilot)
        where = next(line for line in lines if "a cell is" in line)
        assert where.strip().startswith("0x0+")
        await pilot.press("right", "right")
        assert any(line.startswith(" 0x60000+192K") for line in screen(pilot))
        await pilot.press("end")
        last = next(line for line in screen(pilot) if "a cell is" in line)
        start = int(last.split("+")[0].strip(), 16)
        assert GAP + (63 << 20) < start < GAP + (64 << 20)
        await pilot.press("home", "left")  # there is nothing before the first cell
        assert next(line for line in screen(pilot) if "a cell is" in line) == where


async def test_a_selected_range_is_converted_after_a_yes() -> None:
    source = FakeSource()
    async with shown(source) as pilot:
        await pilot.press("v", "down", "s")
        question = next(line for line in screen(pilot) if "y/n" in line)
        assert "to shared?" in question
        assert source.converted == []
        await pilot.press("y")
        await refreshed(pilot)
        ((ranges, to),) = source.converted
        assert to is Target.SHARED
        assert ranges[0].start == 0
        assert str(ranges[0]) in question
        assert source.counts().shared == ranges[0].size // 4096
        assert said(pilot) == [f"{ranges[0].size // 4096} pages are now shared"]

        await pilot.press("v", "right", "p", "y")
        await refreshed(pilot)
        assert source.converted[1][1] is Target.PRIVATE


@pytest.mark.parametrize("key", ["n", "escape"])
async def test_a_no_converts_nothing(key: str) -> None:
    source = FakeSource()
    async with shown(source) as pilot:
        await pilot.press("s", key, "y")
        assert source.converted == []
        assert not any("y/n" in line for line in screen(pilot))


async def test_a_cell_over_two_slots_is_two_ranges() -> None:
    source = FakeSource()
    async with shown(source) as pilot:
        await pilot.press("v", "end", "s", "y")
        await refreshed(pilot)
    ((ranges, _),) = source.converted
    assert ranges == [GpaRange(0, 64 << 20), GpaRange(GAP, 64 << 20)]


async def test_zoom_reaches_single_pages_and_comes_back() -> None:
    async with shown(FakeSource()) as pilot:
        before = screen(pilot)
        await pilot.press(*["plus"] * 8)
        assert any("a cell is 4K" in line for line in screen(pilot))
        await pilot.press("0")
        await pilot.press("home")
        await refreshed(pilot)
        assert [line for line in screen(pilot) if "a cell" in line] == [
            line for line in before if "a cell" in line
        ]


async def test_the_map_scrolls_when_the_cursor_leaves_it() -> None:
    async with shown(FakeSource()) as pilot:
        await pilot.press(*["plus"] * 8)
        await pilot.press("home")
        first = int(screen(pilot)[4].split()[0], 16)
        await pilot.press("end", "down", "down")
        assert int(screen(pilot)[4].split()[0], 16) > first


async def test_space_pauses_and_continues() -> None:
    source = FakeSource()
    async with shown(source) as pilot:
        await pilot.press("space")
        await refreshed(pilot)
        assert source.is_paused
        assert "paused" in screen(pilot)[0]
        await pilot.press("space")
        await refreshed(pilot)
        assert "running" in screen(pilot)[0]


async def test_a_snapshot_of_the_map_is_written(tmp_path: Path) -> None:
    source = FakeSource()
    source.table[:100] = PageState.SHARED
    async with shown(source, tmp_path) as pilot:
        await pilot.press("w")
        await refreshed(pilot)
    (path,) = tmp_path.glob("map-lab-*.txt")  # noqa: ASYNC240 - nothing else runs by now
    assert path.read_text().splitlines()[0].startswith("0x000000000000 S")


async def test_a_snapshot_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    async with shown(FakeSource(), tmp_path / "none") as pilot:
        await pilot.press("w")
        await refreshed(pilot)
        assert "cannot be written: No such file or directory" in said(pilot)[0]


async def test_a_refused_request_is_said_and_the_view_goes_on() -> None:
    source = FakeSource()
    source.refuse = PluginError("page-poisoned")
    async with shown(source) as pilot:
        await pilot.press("s", "y", "space")
        await refreshed(pilot)
        assert said(pilot) == ["page-poisoned", "page-poisoned"]
        source.phase = Phase.USER
        source.counters["accepted"] = 5000
        await refreshed(pilot)
        assert "accepted 0/s" not in screen(pilot)[3]


async def test_it_looks_again_by_itself() -> None:
    source = FakeSource()
    async with Top(source, folder=Path(), refresh_s=0.05).run_test(size=SIZE) as pilot:
        source.table[:3000] = PageState.PRIVATE
        while "private 9.2 %" not in screen(pilot)[2]:
            await pilot.pause(0.02)


async def test_a_vm_that_ended_is_still_shown() -> None:
    source = FakeSource()
    source.alive = False
    async with shown(source) as pilot:
        assert "ended" in screen(pilot)[0]


async def test_another_size_of_terminal_shows_all_memory_too() -> None:
    async with shown(FakeSource(), size=(120, 40)) as pilot:
        await pilot.resize_terminal(80, 24)
        await refreshed(pilot)
        await pilot.press("end")
        assert any(line.startswith(" 0x43f") for line in screen(pilot))


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("top",)) == 85
    assert capsys.readouterr().err.startswith("cvmlab: `cvmlab top` needs a terminal\nhint: ")
