# SPDX-License-Identifier: GPL-2.0-or-later
"""Say how far a long task is and how long it will still take.

A task is a list of phases with the seconds each is expected to take.  The expectation only
matters until a phase reports its own fraction; from then on its own speed decides.

Standard library only at import; rich is loaded when a terminal asks for it.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TextIO, assert_never

from cvmlab.errors import ConfigError


PLAIN_INTERVAL_S = 10.0
# Below this share of a phase its own speed says less than the expectation does.
_TRUSTED_FRACTION = 0.03


class Style(StrEnum):
    """How progress is shown.

    AUTO is what CVMLAB_PROGRESS says, else RICH on a terminal and PLAIN elsewhere.
    """

    AUTO = "auto"
    PLAIN = "plain"
    RICH = "rich"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a task and the seconds it takes on two slow cores."""

    name: str
    expected_s: float


class Sink(Protocol):
    """Where progress goes.  ``show`` is called often and decides itself what to draw."""

    def show(self, text: str, fraction: float, left_s: float) -> None:
        """Take the present state: a phase's name, 0..1 of the task, seconds left."""

    def close(self, text: str) -> None:
        """End the display; ``text`` is the last word, or empty."""


class Task:
    """A task under way.  ``enter`` phases in order, ``advance`` within one, ``tick`` at will."""

    def __init__(
        self, phases: Sequence[Phase], sink: Sink, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._phases = tuple(phases)
        self._sink = sink
        self._clock = clock
        self._index = 0
        self._fraction = 0.0
        self._text: str | None = None
        self._entered = self._started = clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the task began."""
        return self._clock() - self._started

    def enter(self, name: str) -> None:
        """Begin the phase of that name; earlier ones count as done."""
        self._index = [phase.name for phase in self._phases].index(name)
        self._fraction = 0.0
        self._text = None
        self._entered = self._clock()
        self.tick()

    def advance(self, fraction: float, text: str | None = None) -> None:
        """Say which share of the present phase is done; going back is ignored.

        *text* is shown in place of the phase's name from now on.
        """
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._text = text or self._text
        self.tick()

    def tick(self) -> None:
        """Let the display move on although nothing was reported."""
        text = self._text or self._phases[self._index].name
        self._sink.show(text, self.fraction(), self.left_s())

    def fraction(self) -> float:
        """Return the share of the whole task that is done, by expected seconds."""
        total = sum(phase.expected_s for phase in self._phases)
        before = sum(phase.expected_s for phase in self._phases[: self._index])
        return (before + self._fraction * self._phases[self._index].expected_s) / total

    def left_s(self) -> float:
        """Return the seconds the task will still take."""
        elapsed = self._clock() - self._entered
        if self._fraction > _TRUSTED_FRACTION:
            here = elapsed * (1 - self._fraction) / self._fraction
        else:
            here = max(self._phases[self._index].expected_s - elapsed, 0.0)
        return here + sum(phase.expected_s for phase in self._phases[self._index + 1 :])


class SilentSink:
    """Shows nothing."""

    def show(self, text: str, fraction: float, left_s: float) -> None:
        """Nothing to show."""

    def close(self, text: str) -> None:
        """Nothing to end."""


class PlainSink:
    """Whole lines: one for each phase, and one every ten seconds."""

    def __init__(
        self, title: str, stream: TextIO, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._stream = stream
        self._clock = clock
        self._last_text = ""
        self._last_time = 0.0

    def show(self, text: str, fraction: float, left_s: float) -> None:
        """Write a line if the phase is new or the last line is old."""
        now = self._clock()
        if text == self._last_text and now - self._last_time < PLAIN_INTERVAL_S:
            return
        self._last_text, self._last_time = text, now
        left = f"about {format_duration(left_s)} left"
        self._write(f"{self._title}: {text} ({fraction:.0%}, {left})")

    def close(self, text: str) -> None:
        """Write the last word."""
        if text:
            self._write(f"{self._title}: {text}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class RichSink:
    """A bar that redraws itself."""

    def __init__(self, title: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=1.0, left="")
        self._bar.start()

    def show(self, text: str, fraction: float, left_s: float) -> None:
        """Redraw."""
        self._bar.update(
            self._task,
            description=f"{self._title}: {text}",
            completed=fraction,
            left=f"about {format_duration(left_s)} left",
        )

    def close(self, text: str) -> None:
        """Take the bar away and leave the last word."""
        self._bar.stop()
        if text:
            self._bar.console.print(f"{self._title}: {text}", highlight=False, markup=False)


@contextmanager
def task(title: str, phases: Sequence[Phase], *, style: Style, stream: TextIO) -> Iterator[Task]:
    """Show the task while the block runs; a failure ends the display without a last word."""
    sink = _sink(title, _resolve(style, stream), stream)
    running = Task(phases, sink)
    last_word = ""
    try:
        yield running
        last_word = f"done in {format_duration(running.elapsed_s)}"
    finally:
        sink.close(last_word)


def format_duration(seconds: float) -> str:
    """Return ``48 s`` or ``2 min 05 s``."""
    whole = max(round(seconds), 0)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


def _resolve(style: Style, stream: TextIO) -> Style:
    if style is Style.AUTO:
        style = _configured()
    if style is not Style.AUTO:
        return style
    capable = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Style.RICH if capable and _rich_is_installed() else Style.PLAIN


def _configured() -> Style:
    wanted = os.environ.get("CVMLAB_PROGRESS", Style.AUTO)
    if wanted not in list(Style):
        raise ConfigError(
            f"CVMLAB_PROGRESS={wanted} is not a way to show progress",
            hint=f"use one of {', '.join(Style)}",
        )
    return Style(wanted)


def _rich_is_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


def _sink(title: str, style: Style, stream: TextIO) -> Sink:
    match style:
        case Style.NONE:
            return SilentSink()
        case Style.RICH:
            return RichSink(title, stream)
        case Style.PLAIN | Style.AUTO:
            return PlainSink(title, stream)
        case _:
            assert_never(style)
