# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMUs that cannot take over a guest, and ways to find and to hurt one that tries."""

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


# Runs the real one with other words; FRESH-N stands for a new memfd as large as descriptor N.
_CHANGED = """
import os, re, sys
def fresh(match):
    fd = os.memfd_create("fresh")
    os.ftruncate(fd, os.fstat(int(match[1])).st_size)
    os.set_inheritable(fd, True)
    return str(fd)
words = [re.sub("FRESH-([0-9]+)", fresh, word) for word in sys.argv[1:]]
os.execv(words[0], words)
"""


def script(folder: Path, text: str) -> Path:
    """Return a program that is this shell script."""
    path = folder / "successor"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def changed(folder: Path, qemu: Path, edits: Mapping[str, str], *more: str) -> Path:
    """Return a program that runs *qemu* with its words edited by sed expressions, and *more* words."""
    edit = " ".join(f"-e 's/{old}/{new}/'" for old, new in edits.items()) or "-e ''"
    return script(
        folder,
        f"""
n=$#
while [ $n -gt 0 ]; do
  word=$(printf '%s' "$1" | sed -E {edit}); shift
  set -- "$@" "$word"
  n=$((n - 1))
done
exec {shlex.quote(sys.executable)} -c {shlex.quote(_CHANGED)} {shlex.quote(str(qemu))} "$@" {shlex.join(more)}
""",
    )


def successor_of(pid: int) -> int | None:
    """Return the process that waits for the guest of *pid*: another child of ours."""
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            with suppress(OSError):
                if child != pid and b"-incoming" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
    return None


async def signal_successor(pid: int, number: int, after_s: float) -> int | None:
    """Send a signal to the successor of *pid*, *after_s* after it appeared; None if it never did."""
    for _ in range(2000):
        if (found := successor_of(pid)) is not None:
            await asyncio.sleep(after_s)
            with suppress(ProcessLookupError):
                os.kill(found, number)
            return found
        await asyncio.sleep(0.001)
    return None
