# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures of docs/: CVMLAB_SCREENSHOTS=1 renews them."""

import re
from pathlib import Path

from cvmlab.cli import main
from cvmlab.memory.ranges import Slot
from cvmlab.memory.records import Phase
from cvmlab.report.top.app import REFRESH_S, Top
from tests.fakes import journals as make
from tests.fakes.browser import browser
from tests.fakes.live import FakeSource
from tests.tools import installed, screenshots


def test_picture_of_the_report(tmp_path: Path) -> None:
    installed.require("chromium", "chromium")
    run = make.run_folder(tmp_path / "demo", make.boot_like())
    page = tmp_path / "demo.html"
    assert main(("report", str(run), "-o", str(page))) == 0
    with browser(tmp_path / "profile") as shown:
        shown.open(page.as_uri(), height=1990)
        assert shown.trouble == []
        picture = screenshots.keep("report.png", shown.screenshot(), tmp_path / "out")
    assert 20_000 < picture.stat().st_size < 400_000


async def test_picture_of_the_terminal_view(tmp_path: Path) -> None:
    source = FakeSource()
    rows = make.boot_like()
    for row in rows[(rows["to"] > 0) & (rows["gpa"] < 128 << 20)]:
        first = int(row["gpa"]) // make.PAGE
        source.table[first : first + int(row["pages"])] = row["to"]
    source.slots = (Slot(0, 0, 128 << 20),)
    source.faults = [
        f"    {n}.120 device disk0 read private {n * 0x51000:#x}: deny" for n in (1, 2)
    ]
    source.phase = Phase.USER
    async with Top(source, folder=tmp_path).run_test(size=(80, 24)) as pilot:
        for pages in (900, 2400, 800, 0, 1700):
            source.counters["accepted"] += pages
            await pilot.pause(REFRESH_S * 1.1)
        await pilot.press("down", "down", "v", "right", "right", "right")
        await pilot.pause(REFRESH_S)
        svg = pilot.app.export_screenshot(title="cvmlab top")
    # Its fonts would come from the net; any monospaced one does.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    assert "url(h" not in svg
    picture = screenshots.keep("top.svg", svg.encode(), tmp_path / "out")
    assert "accepted" in picture.read_text()
