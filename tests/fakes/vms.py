# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs whose QEMU is a fake, with timeouts that suit a unit test."""

from pathlib import Path
from typing import Any

from cvmlab.vm.vm import Vm
from tests.fakes.plan import Plan


def fake_options(folder: Path, plan: Plan, **options: object) -> dict[str, Any]:
    """Return options of a Vm or SyncVm that runs *plan*; *options* override."""
    return {
        "qemu": plan.install(folder / "fake"),
        "memory": "64M",
        "stop_timeout_s": 0.5,
        "start_timeout_s": 5.0,
        **options,
    }


def fake_vm(folder: Path, plan: Plan, **options: object) -> Vm:
    return Vm(**fake_options(folder, plan, **options))


def run_folders(state_home: Path) -> list[Path]:
    """List the run folders that are there."""
    return sorted(state_home.glob("cvmlab/runs/*"))
