# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU was started with, by the command line in a run folder."""

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def qemu_words(run: Path) -> list[str]:
    """Return QEMU's words; none if the folder has no command line that can be read."""
    try:
        return shlex.split((run / "cmdline").read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return []


def value_of(words: Sequence[str], option: str) -> str | None:
    """Return the word behind *option*, None if it is not there."""
    return next((value for word, value in pairwise(words) if word == option), None)


def kernel_of(words: Sequence[str]) -> Path | None:
    """Return the kernel that QEMU starts, None if firmware finds one."""
    found = value_of(words, "-kernel")
    return None if found is None else Path(found)
