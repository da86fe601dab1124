# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line as a program: started, left alone or disturbed, and looked at afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvmlab.results import result
from cvmlab.results.result import Result
from cvmlab.runs.run_dir import FoundRun, find_runs


DEADLINE_S = 240.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Done:
    """What a run of the program left."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Result:
        return result.from_json(self.out)

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def cvmlab(*words: str, env: dict[str, str] | None = None, deadline_s: float = DEADLINE_S) -> Done:
    """Run ``python -m cvmlab`` to its end."""
    with start(*words, env=env) as process:
        return finish(process, deadline_s=deadline_s)


@contextmanager
def start(*words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start the program in a process group of its own; whatever happens, it ends in here."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cvmlab", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finish(process: subprocess.Popen[str], *, deadline_s: float = DEADLINE_S) -> Done:
    out, err = process.communicate(timeout=deadline_s)
    return Done(process.returncode, out, err)


def wait_for_run(name: str) -> FoundRun:
    """Return the run folder of the VM called *name* as soon as it runs."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for run in find_runs():
            if run.info.name == name and run.running:
                return run
        signal.sigtimedwait((), _LOOK_S)
    raise AssertionError(f"no VM {name} within {DEADLINE_S} s")


def wait_for_text(path: Path, text: str) -> None:
    """Wait until *text* is in the file."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text(errors="replace"):
            return
        signal.sigtimedwait((), _LOOK_S)
    raise AssertionError(f"{text!r} is not in {path} after {DEADLINE_S} s")


def qemu_is_gone(run: FoundRun) -> bool:
    """Wait for the VM's QEMU to end, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while run.info.qemu.alive and time.monotonic() < deadline:
        signal.sigtimedwait((), _LOOK_S)
    return not run.info.qemu.alive
