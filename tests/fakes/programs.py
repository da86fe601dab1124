# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that stand in for the machine's own, found first on PATH."""

import os
from pathlib import Path

import pytest


class Programs:
    """A folder at the front of PATH.  ``calls`` is what the programs in it were called with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        self._log = folder / "calls.log"
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(self, name: str, script: str = "") -> Path:
        """Add a shell script; it logs its call first."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._log}"\n{script}\n')
        program.chmod(0o755)
        return program

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call of that program."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.partition(" ")[2] for line in lines if line.split()[0] == name]
