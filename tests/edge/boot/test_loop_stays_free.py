# SPDX-License-Identifier: GPL-2.0-or-later
"""While a run is judged, what runs beside it goes on: a publisher has to answer its broker."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from cvmlab.boot.plan import plan
from cvmlab.boot.request import Request
from cvmlab.boot.run import run_plan
from cvmlab.vm.vm import Vm
from tests.fakes import kernel_files
from tests.fakes.plan import Plan


@pytest.mark.fault("U11")
@pytest.mark.usefixtures("state_home")
async def test_the_loop_is_free_while_a_run_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe in place of a file that is judged: it is read only while somebody here writes it."""
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)}))
    qemu = Plan(boot=({"phase": 1}, {"shutdown": "guest-shutdown"})).install(tmp_path / "fake")

    async def write(pipe: Path) -> None:
        while True:
            with suppress(OSError):  # nobody reads yet
                descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(descriptor, b"what was booted\n")
                os.close(descriptor)
                return
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def beside(vm: Vm) -> AsyncIterator[None]:
        command = vm.run.path / "cmdline"
        command.unlink()
        os.mkfifo(command)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(write(command))
            yield

    planned = plan(Request.of(kernel=str(kernel), qemu=str(qemu), memory="64M"))
    finished = await run_plan(planned, companion=beside)

    assert finished.result.command == ("what", "was", "booted")
