# SPDX-License-Identifier: GPL-2.0-or-later
"""Show how far a long task is and how long it will still take.

A task is a list of parts with the seconds each is expected to take.  The expectation only
matters until a part reports its own fraction; from then on its own speed decides.

Imports the standard library only, because bootstrap.py runs before rich is installed; a terminal
that has no rich gets plain lines.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TextIO, assert_never

from cvmlab.base.errors import ConfigError


PLAIN_INTERVAL_S = 10.0
# Below this share of a part, its speed says less than the expectation does.
_TRUSTED_FRACTION = 0.03

# Called with what is under way, the share of the task that is done, and the seconds left.
Show = Callable[[str, float, float], None]


class Style(StrEnum):
    """How progress is shown.

    AUTO is what CVMLAB_PROGRESS says, else RICH on a terminal and PLAIN elsewhere.
    """

    AUTO = "auto"
    PLAIN = "plain"
    RICH = "rich"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a task and the seconds it takes on two slow cores."""

    name: str
    expected_s: float


class Task:
    """A task under way: ``enter`` its parts in order, ``advance`` within one, ``tick`` at will."""

    def __init__(
        self, parts: Sequence[Part], show: Show, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._parts = tuple(parts)
        self._show = show
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
        """Begin the part of that name; earlier ones count as done."""
        self._index = [part.name for part in self._parts].index(name)
        self._fraction = 0.0
        self._text = None
        self._entered = self._clock()
        self.tick()

    def advance(self, fraction: float, text: str | None = None) -> None:
        """Report the share of the present part that is done; a smaller one than before is ignored.

        From now on, *text* is shown instead of the part's name.
        """
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._text = text or self._text
        self.tick()

    def tick(self) -> None:
        """Update the display, even if nothing was reported."""
        self._show(self._text or self._parts[self._index].name, self.fraction(), self.left_s())

    def fraction(self) -> float:
        """Return the share of the whole task that is done, by expected seconds."""
        total = sum(part.expected_s for part in self._parts)
        before = sum(part.expected_s for part in self._parts[: self._index])
        return (before + self._fraction * self._parts[self._index].expected_s) / total

    def left_s(self) -> float:
        """Return the seconds the task will still take."""
        elapsed = self._clock() - self._entered
        if self._fraction > _TRUSTED_FRACTION:
            here = elapsed * (1 - self._fraction) / self._fraction
        else:
            here = max(self._parts[self._index].expected_s - elapsed, 0.0)
        return here + sum(part.expected_s for part in self._parts[self._index + 1 :])


@contextmanager
def task(title: str, parts: Sequence[Part], *, style: Style, stream: TextIO) -> Iterator[Task]:
    """Show the task while the block runs, and its duration at the end unless the block fails."""
    style = _resolve(style, stream)
    with _display(title, style, stream) as show:
        running = Task(parts, show)
        yield running
    if style is not Style.NONE:
        _write_line(stream, f"{title}: done in {format_duration(running.elapsed_s)}")


def format_duration(seconds: float) -> str:
    """Return ``48 s`` or ``2 min 05 s``."""
    whole = max(round(seconds), 0)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


@contextmanager
def _display(title: str, style: Style, stream: TextIO) -> Iterator[Show]:
    match style:
        case Style.NONE:
            yield silent
        case Style.RICH:
            with rich_bar(title, stream) as show:
                yield show
        case Style.PLAIN | Style.AUTO:
            yield plain_lines(title, stream)
        case _:
            assert_never(style)


def silent(_text: str, _fraction: float, _left_s: float) -> None:
    """Show nothing."""


def plain_lines(title: str, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> Show:
    """Return a display that writes a line for each part, and one every ten seconds."""
    last_text, last_time = "", 0.0

    def show(text: str, fraction: float, left_s: float) -> None:
        nonlocal last_text, last_time
        now = clock()
        if text != last_text or now - last_time >= PLAIN_INTERVAL_S:
            last_text, last_time = text, now
            left = f"about {format_duration(left_s)} left"
            _write_line(stream, f"{title}: {text} ({fraction:.0%}, {left})")

    return show


@contextmanager
def rich_bar(title: str, stream: TextIO) -> Iterator[Show]:
    """Show a bar that redraws itself and is removed at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("about {task.fields[left]} left"),
        TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
    ) as bar:
        row = bar.add_task(title, total=1.0, left="?")

        def show(text: str, fraction: float, left_s: float) -> None:
            left = format_duration(left_s)
            bar.update(row, description=f"{title}: {text}", completed=fraction, left=left)

        yield show


def _write_line(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _resolve(style: Style, stream: TextIO) -> Style:
    if style is Style.AUTO:
        style = _configured()
    if style is not Style.AUTO:
        return style
    capable = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Style.RICH if capable and find_spec("rich") is not None else Style.PLAIN


def _configured() -> Style:
    wanted = os.environ.get("CVMLAB_PROGRESS", Style.AUTO)
    if wanted not in list(Style):
        raise ConfigError(
            f"CVMLAB_PROGRESS={wanted} is not a way to show progress",
            hint=f"use one of {', '.join(Style)}",
        )
    return Style(wanted)
