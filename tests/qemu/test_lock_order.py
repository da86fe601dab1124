# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU checks the order of its locks when it is asked to, as it is in all of these tests."""

import signal
from pathlib import Path

import pytest

from cvmlab.qemu.build import rom_dirs
from tests.qemu.plain import machine, plain_qemu


pytestmark = [pytest.mark.qemu, pytest.mark.fault("A7")]


def test_a_wrong_order_ends_it(
    patched_qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMLAB_LOCK_ORDER", "broken")
    with plain_qemu([*machine(patched_qemu, rom_dirs()), "-S"], tmp_path) as qemu:
        assert qemu.wait() == -signal.SIGABRT
        assert "a mutex is taken at" in qemu.log.read_text()
        assert "while a leaf is held" in qemu.log.read_text()


def test_it_is_checked_here(patched_qemu: Path, tmp_path: Path) -> None:
    with plain_qemu([*machine(patched_qemu, rom_dirs()), "-S"], tmp_path) as qemu:
        with qemu.qmp() as qmp:
            environment = Path(f"/proc/{qemu.process.pid}/environ").read_bytes()
            assert b"CVMLAB_LOCK_ORDER=1" in environment
            qmp.command("quit")
        assert qemu.wait() == 0
