# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML report as a person sees it: in a real browser, with its console listened to."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest

from cvmlab.cli import main
from tests.fakes import journals as make
from tests.fakes.browser import Browser, browser
from tests.tools import installed, screenshots


VIEW = "document.documentElement.dataset.view.split(' ').map(Number)"
PAGES = 262144
# Colour of the canvas where a cell is, as [red, green, blue].
PIXEL = "[...document.getElementById('map').getContext('2d').getImageData({x}, {y}, 1, 1).data]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    installed.require("chromium", "chromium")
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """The browser stays for the whole module: its pipes are no leak."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("small"), make.small())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("large"), make.large(100_000))


def report(folder: Path, records: make.Records, *words: str) -> Path:
    run = make.run_folder(folder / "run", records)
    path = folder / "report.html"
    assert main(("report", str(run), "-o", str(path), *words)) == 0
    return path


def opened(page: Browser, path: Path, fragment: str = "", *, dark: bool = False) -> None:
    page.trouble.clear()
    page.fetched.clear()
    page.open(path.as_uri() + fragment, dark=dark)


def middle_of_map(page: Browser) -> tuple[float, float]:
    page.run("document.getElementById('map').scrollIntoView({block: 'center'})")
    x, y, width, height = page.run(
        "(({x, y, width, height}) => [x, y, width, height])"
        "(document.getElementById('map').getBoundingClientRect())"
    )
    return x + width / 2, y + height / 2


def test_it_renders_without_a_word_on_the_console(page: Browser, small: Path) -> None:
    opened(page, small)
    assert page.trouble == []
    assert page.fetched[-1:] == [small.as_uri()]
    assert all(url == small.as_uri() or url == "about:blank" for url in page.fetched)
    assert page.run(VIEW) == [0, 3, 0, PAGES]
    assert page.run("document.querySelectorAll('.phase').length") == 3
    assert page.run("document.getElementById('faults').tBodies[0].rows.length") == 2
    row = page.run("document.getElementById('faults').tBodies[0].rows[0].innerText")
    assert row.split() == [
        "device", "disk0", "0x78000", "read", "private", "deny", "1", "iowrite16+0xd",
    ]  # fmt: skip


def test_what_is_shared_is_drawn_as_shared(page: Browser, small: Path) -> None:
    """Page 110 to 113 are shared at the end; 1 GiB is 64 pages a cell or fewer."""
    opened(page, small, "#from=110&to=174")
    red, green, blue, _ = page.run(PIXEL.format(x=3, y=3))
    assert red > 180 > green > blue
    opened(page, small, "#t=1.2&from=110&to=174")
    red, _, blue, _ = page.run(PIXEL.format(x=3, y=3))
    assert blue > red  # it was private then


def test_100_000_events_are_shown_in_seconds(page: Browser, large: Path) -> None:
    assert large.stat().st_size < 4 << 20
    start = perf_counter()
    opened(page, large)
    assert perf_counter() - start < 20
    assert page.trouble == []
    picture = screenshots.keep("report-large.png", page.screenshot(), large.parent)
    assert picture.stat().st_size > 20_000  # not a blank page


def test_the_wheel_zooms_the_drag_moves_and_a_double_click_shows_all(
    page: Browser, large: Path
) -> None:
    opened(page, large)
    x, y = middle_of_map(page)
    for _ in range(6):
        page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-100)
    _, _, first, last = page.run(VIEW)
    assert last - first < PAGES / 8
    assert first > 0

    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseMoved", x, y - 40, button="left", buttons=1)
    page.mouse("mouseReleased", x, y - 40, button="left", clickCount=1)
    _, _, moved, _ = page.run(VIEW)
    assert moved > first

    for count in (1, 2):
        page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=count)
        page.mouse("mouseReleased", x, y, button="left", clickCount=count)
    assert page.run(VIEW)[2:] == [0, PAGES]
    assert page.trouble == []


def test_a_click_on_the_timeline_goes_to_that_moment(page: Browser, large: Path) -> None:
    opened(page, large)
    x, y, width = page.run(
        "(({x, y, width}) => [x, y, width])"
        "(document.getElementById('timeline').getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x + width * 0.5, y + 60, button="left", clickCount=1)
    _, second, _, _ = page.run(VIEW)
    assert second == pytest.approx(4.5 * (600 - 90) / (1200 - 90), rel=0.02)
    assert f"t={second:.2f}"[:5] in page.run("location.hash")


def test_hovering_says_what_is_there(page: Browser, small: Path) -> None:
    opened(page, small)
    page.run("document.getElementById('map').scrollIntoView({block: 'center'})")
    x, y = page.run("(({x, y}) => [x, y])(document.getElementById('map').getBoundingClientRect())")
    page.mouse("mouseMoved", x + 4, y + 4)
    said = page.run("document.getElementById('where').textContent")
    assert said.startswith("under the pointer 0x0 + 192 KiB: ")
    assert "private" in said


def test_the_filter_hides_other_faults(page: Browser, small: Path) -> None:
    opened(page, small)
    page.run(
        "(box => { box.value = 'net0'; box.dispatchEvent(new Event('input')); })"
        "(document.getElementById('filter'))"
    )
    shown = page.run(
        "[...document.getElementById('faults').tBodies[0].rows]"
        ".filter((row) => !row.hidden).map((row) => row.cells[1].textContent)"
    )
    assert shown == ["net0-pci"]


def test_two_runs_are_compared_and_both_maps_can_be_seen(page: Browser, tmp_path: Path) -> None:
    other = make.run_folder(tmp_path / "other", make.large(5000))
    opened(page, report(tmp_path, make.small(), "--compare", str(other)), dark=True)
    assert page.trouble == []
    assert page.run("document.querySelectorAll('path.outline').length") == 3
    assert page.run("document.getElementById('differences').rows.length") > 4
    page.run(
        "(box => { box.value = '1'; box.dispatchEvent(new Event('change')); })"
        "(document.getElementById('which'))"
    )
    page.settle()
    assert page.run(VIEW)[0] == 1


def test_an_empty_journal_is_a_report_too(page: Browser, tmp_path: Path) -> None:
    opened(page, report(tmp_path, make.journal()))
    assert page.trouble == []
    assert "none were recorded" in page.run("document.body.innerText")


def test_it_fits_a_narrow_window(page: Browser, large: Path) -> None:
    opened(page, large)
    page.call(
        "Emulation.setDeviceMetricsOverride", width=900, height=1200, deviceScaleFactor=2,
        mobile=False,
    )  # fmt: skip
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 900
    assert page.trouble == []
