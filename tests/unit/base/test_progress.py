# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of long tasks: the estimate and the ways to show it."""

import io

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.base.progress import Part, Style, Task, format_duration, plain_lines, silent, task


PHASES = (Part("fetching", 10.0), Part("compiling", 90.0))


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_fresh_task_takes_what_its_phases_take(clock: Clock) -> None:
    fresh = Task(PHASES, silent, clock=clock)
    assert (fresh.fraction(), fresh.left_s()) == (0.0, 100.0)


def test_a_silent_phase_is_expected_to_end_in_time(clock: Clock) -> None:
    running = Task(PHASES, silent, clock=clock)
    clock.now += 4
    assert running.left_s() == 96.0
    clock.now += 40
    assert running.left_s() == 90.0


def test_a_phase_that_reports_is_judged_by_its_own_speed(clock: Clock) -> None:
    running = Task(PHASES, silent, clock=clock)
    running.enter("compiling")
    assert running.fraction() == pytest.approx(0.1)
    clock.now += 30
    running.advance(0.1)
    assert running.left_s() == pytest.approx(270.0)
    assert running.fraction() == pytest.approx(0.19)


def test_progress_never_goes_back(clock: Clock) -> None:
    running = Task(PHASES, silent, clock=clock)
    running.advance(0.5)
    running.advance(0.2)
    assert running.fraction() == pytest.approx(0.05)
    running.advance(7.0)
    assert running.fraction() == pytest.approx(0.1)


def test_plain_progress_is_a_line_for_each_phase_and_each_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    running = Task(PHASES, plain_lines("QEMU", stream, clock=clock), clock=clock)
    running.enter("compiling")
    for _ in range(12):
        clock.now += 1
        running.advance(0.5)
    assert stream.getvalue().splitlines() == [
        "QEMU: compiling (10%, about 1 min 30 s left)",
        "QEMU: compiling (55%, about 10 s left)",
    ]


def test_the_last_word_is_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.delenv("CVMLAB_PROGRESS", raising=False)
    with task("QEMU", PHASES, style=Style.AUTO, stream=stream) as running:
        running.enter("fetching")
    assert stream.getvalue().splitlines()[-1] == "QEMU: done in 0 s"


def test_a_failed_task_has_no_last_word() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), task("QEMU", PHASES, style=Style.PLAIN, stream=stream):
        raise KeyError
    assert stream.getvalue() == ""


def test_rich_progress_leaves_one_line_behind() -> None:
    stream = io.StringIO()
    with task("QEMU [x]", PHASES, style=Style.RICH, stream=stream) as running:
        running.enter("compiling")
        running.advance(0.5)
    assert stream.getvalue().splitlines()[-1].startswith("QEMU [x]: done in")


def test_silence_is_silent() -> None:
    stream = io.StringIO()
    with task("QEMU", PHASES, style=Style.NONE, stream=stream) as running:
        running.advance(1.0)
    assert stream.getvalue() == ""


def test_the_environment_chooses_the_style(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("CVMLAB_PROGRESS", "none")
    with task("QEMU", PHASES, style=Style.AUTO, stream=stream) as running:
        running.enter("fetching")
    assert stream.getvalue() == ""


def test_an_unknown_style_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMLAB_PROGRESS", "loud")
    with (
        pytest.raises(ConfigError, match="CVMLAB_PROGRESS=loud"),
        task("QEMU", PHASES, style=Style.AUTO, stream=io.StringIO()),
    ):
        pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s")],
)
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
