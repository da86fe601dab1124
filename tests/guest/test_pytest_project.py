# SPDX-License-Identifier: GPL-2.0-or-later
"""The example project, as its user runs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.guest
_OF_THIS_RUN = re.compile("PYTEST_")
PROJECT = Path(__file__).parents[2] / "examples" / "pytest-project"


@pytest.mark.timeout(1200)
def test_the_example_project(tmp_path: Path, state_home: Path) -> None:
    """It passes; what is expected to fail, fails with the page, the device and the function."""
    shutil.copytree(PROJECT, tmp_path / "project")
    environment = {name: text for name, text in os.environ.items() if not _OF_THIS_RUN.match(name)}

    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cvm-require", *options],
            cwd=tmp_path / "project",
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.stdout + done.stderr

    said = run("-v", "-rx", "test_guest.py")
    assert "6 passed" in said, said
    assert "[generic-debian] PASSED" in said
    assert "[tdx-debian] PASSED" in said
    assert not list(state_home.glob("cvmlab/runs/*"))

    said = run("--runxfail", "test_broken.py")
    assert "1 failed" in said, said
    assert "HostFault: the host touched private memory" in said
    assert "device net0-pci read private 0x" in said
    assert re.search(r"guest in virtnet_\w+\+0x\w+ \[virtio_net\]", said)
    (folder,) = state_home.glob("cvmlab/runs/*")
    assert f"run folder: {folder}" in said
    assert (folder / "events.bin").stat().st_size
