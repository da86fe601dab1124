# SPDX-License-Identifier: GPL-2.0-or-later
"""``kill -9`` of either side while a VM is saved or restored: there is the old snapshot or the new one.

``CVMLAB_KILLS`` is the number of kills of the long test.
"""

import asyncio
import os
import random
import select
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.base.errors import CvmError
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.vm.vm import Vm
from tests.qemu.saver import REFUSED
from tests.qemu.test_upgrade import finish, passes


pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("state_home")]
KILLS = int(os.environ.get("CVMLAB_KILLS", "200"))
PROFILES = ["generic", "tdx", "sev-snp"]
SAVE_S = 0.3  # a kill is somewhere in this time: a snapshot takes about half of it
RESTORE_S = 0.4
GONE_S = 20.0
RESTORE_EVERY = 5


async def line(process: Process) -> int:
    assert process.stdout is not None
    said = await asyncio.wait_for(process.stdout.readline(), GONE_S)
    assert said, "the program that saves has ended"
    return int(said)


def wait_gone(pid: int) -> None:
    """Return when the process *pid* has ended; fail if it lives on."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], GONE_S)[0], f"process {pid} lives on"
        finally:
            os.close(descriptor)


async def kill_a_saver(place: Path, qemu: Path, elf: Path, chance: random.Random) -> None:
    """Kill a program that saves its VM at *place*, or its QEMU, at some moment."""
    program = [sys.executable, "-m", "tests.qemu.saver", str(place), str(qemu), str(elf)]
    process = await create_subprocess_exec(*program, chance.choice(PROFILES), stdout=PIPE)
    try:
        emulator = await line(process)
        await line(process)
        await asyncio.sleep(chance.uniform(0, SAVE_S))
        if chance.random() < 0.5:
            process.kill()
            await process.wait()
        else:
            os.kill(emulator, signal.SIGKILL)
            assert await asyncio.wait_for(process.wait(), GONE_S) == REFUSED
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    wait_gone(emulator)


def kill_programs_with(word: str) -> None:
    """Kill each process that has *word* in its command line."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


async def kill_while_restoring(place: Path, qemu: Path, chance: random.Random) -> None:
    """Kill the QEMU of a VM that is being restored: the snapshot is untouched, the error is told."""
    run = place.parents[1] / "restoring"
    started = asyncio.ensure_future(Vm.restore(place, qemu=qemu, run_dir=run).__aenter__())
    await asyncio.sleep(chance.uniform(0, RESTORE_S))
    kill_programs_with(str(run))
    try:
        vm = await started
    except CvmError:
        return
    await vm.__aexit__(None, None, None)


async def harm(folder: Path, qemu: Path, elf: Path, seed: int, kills: int) -> None:
    place, chance = folder / "snapshots" / "one", random.Random(seed)
    for number in range(kills):
        await kill_a_saver(place, qemu, elf, chance)
        SnapshotFolder.open(place).verify()
        if number % RESTORE_EVERY == 0:
            await kill_while_restoring(place, qemu, chance)
            SnapshotFolder.open(place).verify()
            async with Vm.restore(place, qemu=qemu) as vm:
                await passes(vm)
                await finish(vm)
    left = [path.name for path in place.parent.iterdir() if path.name != "one"]
    assert all(name.startswith(".one") for name in left), left  # the next writer removes them


@pytest.mark.timeout(120)
async def test_what_is_there_after_a_kill_is_whole(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    await harm(tmp_path, patched_qemu, bare_elf, 1, 3)


@pytest.mark.long
@pytest.mark.timeout(KILLS * 20)
async def test_what_is_there_after_many_kills_is_whole(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    await harm(tmp_path, patched_qemu, bare_elf, 2, KILLS)
