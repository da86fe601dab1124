# SPDX-License-Identifier: GPL-2.0-or-later
"""Stop signals end a command however it was started."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fakes import kernel_files
from tests.fakes.plan import Plan


pytestmark = pytest.mark.fault("U1")

# What a shell without job control does for `command &`, and what nohup does.
BACKGROUND, NOHUP = "INT QUIT", "HUP"
SERVE = ("serve", "--metrics", "0")


class Started:
    """A command that was started with some signals ignored, and has printed its first line."""

    def __init__(self, words: Sequence[str], ignored: str) -> None:
        script = f'trap "" {ignored}; exec "$@"'
        fresh = (
            "env",
            "--default-signal",
            "sh",
            "-c",
            script,
            "sh",
        )  # the tests may run under nohup
        self.process = subprocess.Popen(
            [*fresh, sys.executable, "-m", "cvmlab", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.process.communicate(timeout=10)

    def end(self, number: signal.Signals) -> int | None:
        """Send a signal; return the exit status, None if it has not ended for it."""
        self.process.send_signal(number)
        try:
            return self.process.wait(10 if number is not signal.SIGHUP else 3)
        except subprocess.TimeoutExpired:
            return None


@pytest.fixture
def started(state_home: Path) -> Iterator[list[Started]]:
    running: list[Started] = []
    yield running
    for one in running:
        one.process.kill()
        one.process.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_background_job_ends_for_every_stop_signal(
    started: list[Started], number: signal.Signals
) -> None:
    started.append(Started(SERVE, BACKGROUND))
    assert started[0].end(number) == 130


def test_what_nohup_ignores_stays_ignored(started: list[Started]) -> None:
    started.append(Started(SERVE, NOHUP))
    assert started[0].end(signal.SIGHUP) is None
    assert started[0].end(signal.SIGTERM) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_boot_in_the_background_ends_in_good_order(
    tmp_path: Path, state_home: Path, number: signal.Signals
) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    qemu = Plan(boot=({"phase": 1}, {"touch": [16, 100]})).install(tmp_path / "fake")
    words = ["boot", "-k", str(kernel), "--memory", "64M", "--qemu", str(qemu)]
    with subprocess.Popen(
        ["sh", "-c", f'trap "" {BACKGROUND}; exec "$@"', "sh", sys.executable, "-m", "cvmlab", *words],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"CVMLAB_ROM_DIRS": str(tmp_path)},
    ) as process:  # fmt: skip
        try:
            wait_for_events(state_home, process)
            process.send_signal(number)
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "FAILED: interrupted (exit code 130)" in out


def wait_for_events(state: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while not any(path.stat().st_size for path in state.glob("cvmlab/runs/*/events.bin")):
        assert process.poll() is None, "it ended before the VM began"
        assert time.monotonic() < end, "the VM never began"
        threading.Event().wait(0.05)
