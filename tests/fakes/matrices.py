# SPDX-License-Identifier: GPL-2.0-or-later
"""Matrices of guests that a fake QEMU boots, each in the way a test wants."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes import kernel_files
from tests.fakes.plan import Plan


Steps = Sequence[Mapping[str, Any]]

BOOTED: Steps = (
    {"phase": 1}, {"touch": [16, 100]}, {"phase": 2}, {"touch": [200, 50]},
    {"agent": "cvmlab hello 6.12.1\n"}, {"shutdown": "guest-shutdown"},
)  # fmt: skip
HANGS: Steps = ({"phase": 1}, {"touch": [16, 100]})


def write(folder: Path, guests: Mapping[str, Steps], more: str = "", axes: str = "") -> Path:
    """Write ``m.toml`` with these guests in *folder*; return its path."""
    (folder / "kernel").write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    tables = []
    for name, steps in guests.items():
        qemu = Plan(boot=tuple(dict(step) for step in steps)).install(folder / f"qemu-{name}")
        tables.append(f'[guest.{name}]\nkernel = "kernel"\nqemu = "{qemu}"\n')
    document = folder / "m.toml"
    document.write_text(
        f'name = "fake"\n[axes]\nguest = {json.dumps(list(guests))}\nmemory = ["64M"]\n{axes}\n'
        + "".join(tables)
        + more
    )
    return document


def change(folder: Path, guest: str, steps: Steps) -> None:
    """Let *guest* behave otherwise from now on: no file that the document names changes."""
    plan = folder / f"qemu-{guest}" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"boot": list(steps)}))


def started_log(folder: Path, guest: str, gate: Path) -> Path:
    """Let *guest*'s QEMU note each start in the file returned, and wait until *gate* is there."""
    program = folder / f"qemu-{guest}" / "qemu-fake"
    log = folder / f"started-{guest}"
    text = program.read_text().removeprefix("#!/bin/sh\n")
    program.write_text(
        f"#!/bin/sh\necho $$ >>'{log}'\nuntil [ -e '{gate}' ]; do sleep 0.05; done\n{text}"
    )
    return log
