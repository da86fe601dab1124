# SPDX-License-Identifier: GPL-2.0-or-later
"""A matrix needs the QEMU of its guests' architectures, and no other."""

import os
from pathlib import Path

import pytest

from cvmlab.cli import main
from tests.fakes.kernel_files import arm64_image, bzimage
from tests.fakes.plan import Plan


DOCUMENT = """
[axes]
guest = ["arm"]
coco = ["off"]
firmware = ["direct"]
memory = ["64M"]
[guest.arm]
kernel = "kernel"
initrd = "none"
"""
BOOTED = ({"agent": "cvmlab hello 6.12.1\n"}, {"shutdown": "guest-shutdown"})


@pytest.fixture(autouse=True)
def arm_only(tmp_path: Path, state_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has a QEMU for Arm guests, and nothing to build another one from."""
    fake = Plan(boot=BOOTED).install(tmp_path / "fake")
    qemu = tmp_path / "qemu"
    version = "QEMU emulator version 10.0.13 (fake)"
    qemu.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo "{version}"\nexec "{fake}" "$@"\n'
    )
    qemu.chmod(0o755)
    monkeypatch.setenv("CVMLAB_QEMU_AARCH64", os.fspath(qemu))
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.setenv("CVMLAB_QEMU_SOURCE", "/nowhere")
    monkeypatch.delenv("CVMLAB_QEMU", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "matrix.toml").write_text(DOCUMENT)
    return tmp_path


def test_arm_guests_need_no_qemu_for_a_pc(arm_only: Path) -> None:
    (arm_only / "kernel").write_bytes(arm64_image())
    assert main(["matrix", str(arm_only / "matrix.toml"), "--progress", "none"]) == 0


def test_a_guest_of_a_pc_does(arm_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (arm_only / "kernel").write_bytes(bzimage())
    assert main(["matrix", str(arm_only / "matrix.toml"), "--progress", "none"]) == 85
    assert "there is no QEMU source at /nowhere" in capsys.readouterr().err
