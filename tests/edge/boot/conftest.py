# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole boots through the command line, of a QEMU that is a fake."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cvmlab.cli import main
from cvmlab.results import result
from cvmlab.results.result import Result
from tests.fakes import kernel_files
from tests.fakes.plan import Plan


Boot = Callable[..., tuple[int, Result]]
Steps = Sequence[dict[str, Any]]


@pytest.fixture
def elf(tmp_path: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a kernel that a fake QEMU takes; firmware and run folders are the test's own."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.delenv("CVMLAB_QEMU", raising=False)
    return kernel


@pytest.fixture
def boot(tmp_path: Path, elf: Path, capsys: pytest.CaptureFixture[str]) -> Boot:
    """Return a function that boots what a plan says, and gives exit code and result."""

    def start(line: str, steps: Steps, *, kernel: bool = True, **plan: Any) -> tuple[int, Result]:
        qemu = Plan(boot=tuple(steps), **plan).install(tmp_path / "fake")
        given = f"-k {elf}" if kernel else ""
        fixed = f"boot {given} --memory 64M --qemu {qemu} --progress none --json - "
        code = main(shlex.split(fixed + line))
        return code, result.from_json(capsys.readouterr().out)

    return start
