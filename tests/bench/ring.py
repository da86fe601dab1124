# SPDX-License-Identifier: GPL-2.0-or-later
"""The core under load: records that Python drains into events.bin, and windows of stacks."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cvmlab.base.resources import plugin_dir
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import Journal, Ring
from cvmlab.memory.stacks import STACK_WORDS, STACKS_BYTES
from cvmlab.memory.states import Layout
from tests.bench.measure import Figure


RECORDS = 8_000_000
WINDOWS = 400_000
ROUNDS = 5
TIMEOUT_S = 60.0


def compile_with_core(folder: Path, name: str) -> Path:
    """Compile the program *name* with the plugin's core."""
    core = plugin_dir() / "core"
    with (folder / "transitions.inc").open("wb") as out:
        generate = [
            sys.executable,
            str(core / "gen-transitions.py"),
            str(core / "transitions.toml"),
        ]
        subprocess.run(generate, stdout=out, check=True, timeout=TIMEOUT_S)
    sources = [Path(__file__).with_name(f"{name}.c"), *sorted(core.glob("*.c"))]
    program = folder / name
    flags = ["-std=gnu11", "-O2", f"-I{core}", f"-I{folder}"]
    argv = ["cc", *flags, "-o", str(program), *map(str, sources)]
    subprocess.run(argv, check=True, timeout=TIMEOUT_S)
    return program


def drained(pusher: Path, folder: Path) -> tuple[float, int]:
    """Return seconds and records: from the first record to the last one on disk."""
    with RestrictedFiles.create(1 << 20, layout=Layout.IN_PLACE) as files:
        ring = Ring(files.fds.ring)
        journal = Journal(ring, folder / "events.bin")
        argv = [str(pusher), str(files.fds.ring), str(RECORDS)]
        start = time.perf_counter()
        with subprocess.Popen(argv, pass_fds=[files.fds.ring]) as process:
            while process.poll() is None and time.perf_counter() - start < TIMEOUT_S:
                journal.drain()
            journal.finish()
        elapsed = time.perf_counter() - start
        total = journal.total
        journal.close()
        ring.close()
    return elapsed, total


def window_us(stacker: Path) -> float:
    """Return the time of putting a window of a full stack, the fastest of some runs."""
    taken = []
    for _ in range(ROUNDS):
        fd = os.memfd_create("stacks")
        os.ftruncate(fd, STACKS_BYTES)
        argv = [str(stacker), str(fd), str(WINDOWS)]
        done = subprocess.run(
            argv, pass_fds=[fd], check=True, timeout=TIMEOUT_S, capture_output=True, text=True
        )
        os.close(fd)
        taken.append(int(done.stdout) / WINDOWS / 1000)
    return min(taken)


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        elapsed, total = drained(compile_with_core(folder, "pusher"), folder)
        window = window_us(compile_with_core(folder, "stacker"))
    if total != RECORDS:
        raise RuntimeError(f"{RECORDS} records went in, {total} came out")
    yield Figure("ring-in", total / elapsed, f"{total} records, none lost, {elapsed:.2f} s")
    yield Figure(
        "stack-window", window, f"{WINDOWS} windows of {STACK_WORDS} words, best of {ROUNDS}"
    )
