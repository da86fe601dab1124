# SPDX-License-Identifier: GPL-2.0-or-later
"""A build of QEMU with a configure and a ninja that take no time."""

import os
from pathlib import Path

import pytest

from tests.edge.qemu.trees import NINJA, tree_of
from tests.fakes.programs import Programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """All that a build runs, but for cp; the cache is empty."""
    for name in ("QEMU", "STOCK_QEMU", "QEMU_SOURCE", "QEMU_VERSION", "JOBS"):
        monkeypatch.delenv(f"CVMLAB_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    monkeypatch.setenv("PYTHON_OF_TEST", "/bin/true")
    monkeypatch.setenv("CVMLAB_PROGRESS", "none")
    made = Programs(tmp_path / "bin", monkeypatch)
    made.add("dpkg-query", 'shift 3; for name; do echo "$name installed"; done')
    made.add("ninja", NINJA)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder that looks like QEMU's source."""
    return tree_of(tmp_path / "qemu", "10.0.99")


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The source of the second supported version."""
    return tree_of(tmp_path / "newer", "11.1.99")
