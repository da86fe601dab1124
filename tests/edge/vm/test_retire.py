# SPDX-License-Identifier: GPL-2.0-or-later
"""After an upgrade the guest is in the new QEMU, whatever becomes of the old one's files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cvmlab.runs.run_dir import ProcessId, RunDir, VmInfo, load_run
from cvmlab.vm.upgrade import retire


pytestmark = [pytest.mark.usefixtures("state_home"), pytest.mark.fault("U8")]
OLD, NEW = ProcessId(1, 1), ProcessId(2, 2)


class FakeQemu:
    """A QEMU that ends when it is told to."""

    identity = NEW

    async def quit(self, *, timeout_s: float) -> None: ...

    async def terminate(self, *, timeout_s: float) -> None: ...


@dataclass
class FakeParts:
    run: RunDir
    connection: FakeQemu
    process: FakeQemu


@dataclass
class FakeReplaced:
    parts: FakeParts
    qmp_socket: Path


def upgraded(folder: Path) -> tuple[Any, Any]:
    """Return the parts of an old QEMU and the new one, both in *folder*."""
    run = RunDir.create("vm", folder)
    run.publish(
        VmInfo(
            name="vm", coco="tdx", memory_bytes=1 << 30, created_s=1.0,
            controller=ProcessId.of(os.getpid()), qemu=OLD, files=None,
        )
    )  # fmt: skip
    (folder / "qmp1").touch()
    parts = FakeParts(run, FakeQemu(), FakeQemu())
    return parts, FakeReplaced(parts, folder / "qmp1")


async def test_the_new_qemu_is_published(tmp_path: Path) -> None:
    source, replaced = upgraded(tmp_path)
    assert await retire(source, replaced, 1.0) is None
    found = load_run(tmp_path)
    assert found is not None
    assert found.info.qemu == NEW
    assert (tmp_path / "qmp.sock").exists()


async def test_what_cannot_be_published_is_told_and_does_not_fail_the_upgrade(
    tmp_path: Path,
) -> None:
    source, replaced = upgraded(tmp_path)
    (tmp_path / "qmp1").unlink()
    told = await retire(source, replaced, 1.0)
    assert told is not None
    assert told.startswith("other terminals cannot find the new QEMU")
