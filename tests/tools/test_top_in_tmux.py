# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab top`` as a program in a real terminal, of 80x24, beside a VM that runs."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.vm.sync import SyncVm
from tests.fakes.plan import Plan
from tests.tools import installed


DEADLINE_S = 60.0
BOOT = (
    {"phase": 1}, {"touch": [0, 900]}, {"phase": 3}, {"host_fault": 0x5010}, {"console": "login: "},
)  # fmt: skip


class Tmux:
    """A tmux server of its own, with one window."""

    def __init__(self, program: str, folder: Path) -> None:
        self._words = [program, "-S", str(folder / "socket"), "-f", "/dev/null"]

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._words, *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def screen(self) -> list[str]:
        return self("capture-pane", "-p").splitlines()

    def keys(self, *keys: str) -> None:
        self("send-keys", *keys)

    def until(self, text: str) -> list[str]:
        """Wait until *text* is on the screen; return the screen that it is on.

        The program may be drawing: a second look could find another screen.
        """
        deadline = time.monotonic() + DEADLINE_S
        while True:
            lines = self.screen()
            if any(text in line for line in lines):
                return lines
            assert time.monotonic() < deadline, f"no {text!r} in\n" + "\n".join(lines)
            signal.sigtimedwait((), 0.1)


@pytest.fixture
def vm(tmp_path: Path, state_home: Path) -> Iterator[SyncVm]:
    qemu = Plan(boot=BOOT).install(tmp_path / "fake")
    with SyncVm(qemu=qemu, memory="64M", name="lab", stop_timeout_s=0.5) as running:
        running.wait_for("login:")
        yield running


@pytest.fixture
def tmux(tmp_path: Path, vm: SyncVm) -> Iterator[Tmux]:
    program = installed.require("tmux", "tmux")
    server = Tmux(program, tmp_path)
    command = shlex.join(
        [sys.executable, "-m", "cvmlab", "top", "lab", "--snapshots", str(tmp_path)]
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    server(
        "new-session", "-d", "-x", "80", "-y", "24", "-e", f"PYTHONPATH={path}", "-e",
        f"XDG_STATE_HOME={os.environ['XDG_STATE_HOME']}", "-e", "LANG=C.UTF-8",
        f"{command}; echo it ended with $?; read",
    )  # fmt: skip
    yield server
    server("kill-server")


def test_a_vm_is_watched_and_changed(tmux: Tmux, vm: SyncVm, tmp_path: Path) -> None:
    tmux.until("a cell is")
    tmux.until("cvmlab top")
    lines = tmux.until("device disk0 read private 0x5010: deny")
    assert lines[0].split()[:5] == ["cvmlab", "top", "lab", "generic", "64M"]
    assert max(map(len, lines)) <= 80
    assert len(lines) == 24

    tmux.keys("Down", "Down", "v", "Right", "Right", "s")
    tmux.until("to shared? y/n")
    tmux.keys("y")
    tmux.until("are now shared")
    assert vm.pages.counts().shared > 0

    tmux.keys("w")
    tmux.until("wrote")  # a long path may be on the next line
    (picture,) = tmp_path.glob("map-lab-*.txt")
    assert "S" in picture.read_text()

    tmux.keys("Space")
    tmux.until("paused")
    assert vm.qmp("query-status")["status"] == "paused"

    tmux.keys("q")
    tmux.until("it ended with 0")
