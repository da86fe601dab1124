# SPDX-License-Identifier: GPL-2.0-or-later
"""The event ring under load: a C program pushes as fast as it can, Python drains into events.bin."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cvmlab.files import RestrictedFiles
from cvmlab.journal import Journal, Ring
from cvmlab.resources import plugin_dir
from cvmlab.states import Layout
from tests.bench.measure import Figure


RECORDS = 8_000_000
TIMEOUT_S = 60.0


def compile_pusher(folder: Path) -> Path:
    core = plugin_dir() / "core"
    with (folder / "transitions.inc").open("wb") as out:
        generate = [
            sys.executable,
            str(core / "gen-transitions.py"),
            str(core / "transitions.toml"),
        ]
        subprocess.run(generate, stdout=out, check=True, timeout=TIMEOUT_S)
    sources = [Path(__file__).with_name("pusher.c"), *sorted(core.glob("*.c"))]
    pusher = folder / "pusher"
    flags = ["-std=gnu11", "-O2", f"-I{core}", f"-I{folder}"]
    argv = ["cc", *flags, "-o", str(pusher), *map(str, sources)]
    subprocess.run(argv, check=True, timeout=TIMEOUT_S)
    return pusher


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


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        pusher = compile_pusher(folder)
        elapsed, total = drained(pusher, folder)
    if total != RECORDS:
        raise RuntimeError(f"{RECORDS} records went in, {total} came out")
    yield Figure("ring-in", total / elapsed, f"{total} records, none lost, {elapsed:.2f} s")
