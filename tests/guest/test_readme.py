# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md's sessions are what one really sees: its commands are run, its lines must come out."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMAND_TIMEOUT_S = 150.0
READY_TIMEOUT_S = 150.0


@dataclass(slots=True)
class Step:
    command: str
    expected: list[str] = field(default_factory=list)

    @property
    def background(self) -> bool:
        return self.command.endswith("&")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def steps(session: str) -> list[Step]:
    found: list[Step] = []
    for line in session.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        elif line.strip() and line != "...":
            found[-1].expected.append(line)
    return found


def masked(line: str) -> str:
    """Return *line* without what differs from run to run: numbers, plurals, cells of the map."""
    cells = re.sub(r"^(0x[0-9a-f]+) [pPsS.!]+$", r"\1 cells", line.strip())
    cells = re.sub(r"patch [0-9a-f]{12}", "patch", cells)
    numbers = re.sub(r"0x[0-9a-f]+|\d[\d.]*", "N", cells)
    return re.sub(r"\s+", " ", re.sub(r"\b(fault|access|request)(e?s)\b", r"\1", numbers))


def missing(expected: list[str], shown: str) -> str | None:
    """Return the first expected line that does not come out, in order; None if all do."""
    lines = iter(masked(line) for line in shown.splitlines())
    return next((line for line in expected if masked(line) not in lines), None)


def run(command: str) -> str:
    argv = shlex.split(command)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    return done.stdout + done.stderr


def wait_until_user_phase(name: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while "phase user" not in run(f"./cvmlab query {name}"):
        assert time.monotonic() < deadline, f"the guest of {name} did not come up"


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("session", blocks("console"))
def test_readme_session_is_what_one_sees(
    session: str, background: list[subprocess.Popen[bytes]]
) -> None:
    for step in steps(session):
        if step.background:
            argv = shlex.split(step.command.removesuffix("&"))
            background.append(subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL))
            wait_until_user_phase(argv[argv.index("--name") + 1])
            continue
        shown = run(step.command)
        assert missing(step.expected, shown) is None, f"$ {step.command}\n{shown}"


def test_a_changed_readme_line_is_noticed() -> None:
    shown = "pages 12\nshared 3 %\n"
    assert missing(["pages 99", "shared 0.1 %"], shown) is None
    assert missing(["shared 0.1 %", "pages 99"], shown) == "pages 99"
    assert missing(["private 3 %"], shown) == "private 3 %"


@pytest.mark.parametrize("program", blocks("python"))
def test_readme_program_runs(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT,
        timeout=COMMAND_TIMEOUT_S, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shared=512" in done.stdout
