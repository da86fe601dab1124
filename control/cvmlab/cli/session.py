# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands share: the flags before the command, asking for one of several words."""

import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from cvmlab.base.errors import ConfigError


if TYPE_CHECKING:
    from cvmlab.base.progress import Style


T = TypeVar("T")


@dataclass(slots=True)
class Session:
    """One run of the command line."""

    debug: bool = False
    reported: bool = False  # what happened has been said


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C cancels it, waits for its cleanup, and gets through."""
    import asyncio

    return asyncio.run(work)


def has_colour(stream: TextIO) -> bool:
    """Whether escapes would be understood, and are not unwanted (NO_COLOR, TERM=dumb)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty() and "utf" in (stream.encoding or "").lower()


def require_terminal(what: str) -> None:
    """Raise ConfigError unless somebody can see and type."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            f"`{what}` needs a terminal", hint="`cvmlab query`, `map` and `events` need none"
        )


def style_of(word: str | None) -> "Style":
    """Read --progress, or CVMLAB_PROGRESS if it was not given; raise ConfigError."""
    from cvmlab.base.choices import choose
    from cvmlab.base.progress import Style

    wanted = word or os.environ.get("CVMLAB_PROGRESS") or Style.AUTO
    return Style(choose("--progress", wanted, Style))
