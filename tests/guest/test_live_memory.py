# SPDX-License-Identifier: GPL-2.0-or-later
"""A live Debian kernel while its memory is converted under it, rebooted, and asked for secrets."""

import asyncio
import os
import random
import secrets
from pathlib import Path

import numpy as np
import pytest

from cvmlab.base.errors import CommandRefused, DeadlineExceeded
from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot
from cvmlab.memory.records import Kind, Phase
from cvmlab.memory.replay import replay
from cvmlab.memory.states import STATE_MASK, profiles
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.operations import Content
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.devices import guest


pytestmark = [pytest.mark.guest, pytest.mark.timeout(150)]

PROFILES = ["generic", "sw-protected"]
DEADLINE_S = 120
LOW, HIGH = 16 << 20, 512 << 20
# Files in a RAM disk, copied and compared with themselves through a compressor, again and again.
SELF_CHECK = """
dd if=/dev/urandom of=/tmp/a bs=1M count=8 2>/dev/null
sum=$(sha256sum </tmp/a); bad=0; echo self-check begins
for i in 1 2 3; do
  cp /tmp/a /tmp/b; gzip -1c /tmp/b >/tmp/c; rm /tmp/b
  [ "$(gunzip -c /tmp/c | sha256sum)" = "$sum" ] || bad=$((bad + 1))
  [ "$(sha256sum </tmp/a)" = "$sum" ] || bad=$((bad + 1))
done
[ "$(stat -c %s /tmp/a)" = 8388608 ] || bad=$((bad + 1))
echo self-check ends: $bad bad
"""
# Nobody converts or looks while a guest powers off: it waits until it is told to.
WAIT_AND_END = "read told </dev/console\nexit $bad\n"
END = "exit $bad\n"


async def convert_at_random(vm: Vm, generator: random.Random, turn: asyncio.Lock) -> int:
    """Convert, content kept, until the guest is done; return how many pages changed."""
    changed = 0
    while not self_check_ended(vm):
        size = generator.choice([PAGE_SIZE, 16 * PAGE_SIZE, 2 << 20])
        where = GpaRange(generator.randrange(LOW, HIGH - size, PAGE_SIZE), size)
        to = generator.choice(["shared", "private"])
        async with turn:
            changed += await vm.convert(where, to, content=Content.PRESERVE)
        await asyncio.sleep(0.002)
    return changed


def self_check_ended(vm: Vm) -> bool:
    return "self-check ends" in vm.console.text


def open_files(vm: Vm) -> RestrictedFiles:
    """Open the memory files of a running VM."""
    run = load_run(vm.run.path)
    assert run is not None
    files = run.info.files
    assert files is not None
    fds = BackendFds(files.private, files.shared, files.table, files.ring)
    return RestrictedFiles.of_process(run.info.qemu.pid, run.info.memory_bytes, fds)


async def assert_storage(vm: Vm, files: RestrictedFiles) -> None:
    """Invariant 2, with the CPUs held: both files have what the table says, exactly."""
    await vm.pause()
    states = vm.pages.table & STATE_MASK
    private, shared = files.storage_bytes()
    assert private == int(np.count_nonzero(states == 1)) * PAGE_SIZE
    assert shared == int(np.count_nonzero(states == 2)) * PAGE_SIZE
    await vm.cont()


async def watch_storage(vm: Vm, files: RestrictedFiles, turn: asyncio.Lock) -> int:
    """Check now and then while the guest works and is converted; return how often."""
    checks = 0
    while not self_check_ended(vm):
        async with turn:
            await assert_storage(vm, files)
        checks += 1
        await asyncio.sleep(0.2)
    return checks


@pytest.mark.parametrize("cpus", [1, 2])
async def test_converted_under_its_feet_with_content_kept(tmp_path: Path, cpus: int) -> None:
    """Invariants 2 and 5 in the split layout, and a guest that notices nothing."""
    script = SELF_CHECK + WAIT_AND_END
    options = {
        "coco": "sw-protected",
        "cpus": cpus,
        "debuggable": True,
    }  # so that content can be kept
    async with guest(script, tmp_path, **options) as vm:
        await vm.wait_for("self-check begins", timeout_s=DEADLINE_S)
        with open_files(vm) as files:
            async with asyncio.TaskGroup() as tasks:
                turn = asyncio.Lock()
                converter = tasks.create_task(convert_at_random(vm, random.Random(5), turn))
                watcher = tasks.create_task(watch_storage(vm, files, turn))
                await vm.wait_for("self-check ends: .* bad", timeout_s=DEADLINE_S)
            await vm.send("\n")
            outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
            table = vm.pages.table.copy()
        assert vm.last_info is not None
        slots = [Slot(s.gpa, s.offset, s.size) for s in vm.last_info.slots]
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0)
        assert "self-check ends: 0 bad" in vm.console.text
        assert converter.result() > 1000
        assert watcher.result() > 3
        assert vm.last_info.counters["events-dropped"] == 0
        journal = JournalFile(vm.run.events).records
        done = replay(journal, profiles()["sw-protected"], slots, len(table))
        assert done.discrepancies == ()
        assert np.count_nonzero((done.table ^ table) & STATE_MASK) == 0


async def test_control_converted_with_content_lost_it_breaks(tmp_path: Path) -> None:
    """However it breaks: it hangs, panics, resets itself or finds its files spoilt."""
    async with guest(SELF_CHECK + END, tmp_path, coco="sw-protected") as vm:
        await vm.wait_for("self-check begins", timeout_s=DEADLINE_S)
        # Held meanwhile: it could break after the first of them, and take the others' answer along.
        await vm.pause()
        assert not self_check_ended(vm), "too late: nothing is left to be broken"
        every_third = [GpaRange(gpa, 4 << 20) for gpa in range(LOW, HIGH, 12 << 20)]
        await vm.convert(every_third, "shared", content=Content.DISCARD)
        await vm.cont()
        try:
            outcome = await vm.wait_exit(timeout_s=30)
        except DeadlineExceeded:
            return
        assert (outcome.end, outcome.guest_status) != (End.POWERED_OFF, 0)
        assert "self-check ends: 0 bad" not in vm.console.text


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_secret_of_a_process_is_nowhere_in_the_host(tmp_path: Path, coco: str) -> None:
    """A live kernel's page cache and a process's heap hold it; no file that the host has does."""
    secret = secrets.token_hex(16)
    # Upper case is only ever made in the guest: the initramfs has the other.
    script = (
        f"echo {secret} | tr a-f A-F >/tmp/secret; cp /tmp/secret /tmp/more; echo planted; "
        "sleep 1000"
    )
    needle = secret.upper().encode()
    async with guest(script, tmp_path, coco=coco) as vm:
        await vm.wait_for("planted", timeout_s=DEADLINE_S)
        await vm.pause()  # what was found must stay where it is
        with open_files(vm) as files:
            private = os.pread(files.fds.private, files.size_bytes, 0)
            places = [at for at in found_at(private, needle) if at >= 1 << 20]
            assert places, "the scan does not even find it where it is"
            shared = files.fds.shared
            assert shared is None or needle not in os.pread(shared, files.size_bytes, 0)
            for number, at in enumerate(places[:4]):
                await assert_denied(vm, tmp_path / f"saved{number}", at, needle)
            assert all(needle not in path.read_bytes() for path in files_below(tmp_path))
            if coco == "generic":
                # The control: shared, with its content, the same command takes it.
                page = GpaRange(places[0] // PAGE_SIZE * PAGE_SIZE, PAGE_SIZE)
                await vm.convert(page, "shared", content=Content.PRESERVE)
                taken = tmp_path / "taken"
                await vm.qmp("pmemsave", val=page.start, size=PAGE_SIZE, filename=str(taken))
                assert needle in taken.read_bytes()
        await vm.stop()


def found_at(data: bytes, needle: bytes) -> list[int]:
    places, at = [], data.find(needle)
    while at >= 0:
        places.append(at)
        at = data.find(needle, at + 1)
    return places


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def assert_denied(vm: Vm, file: Path, gpa: int, needle: bytes) -> None:
    """Ask the monitor for it in three ways."""
    with pytest.raises(CommandRefused):
        await vm.qmp("pmemsave", val=gpa, size=len(needle), filename=str(file))
    dump = await vm.qmp("human-monitor-command", **{"command-line": f"xp /32bx {gpa:#x}"})
    assert "Cannot access memory" in dump
    with pytest.raises(CommandRefused, match="restricted"):
        await vm.qmp("dump-guest-memory", paging=False, protocol=f"file:{file}.dump")


@pytest.mark.parametrize("coco", PROFILES)
async def test_it_reboots_as_if_launched(tmp_path: Path, coco: str) -> None:
    """Once by itself and once by the reset button: each time a whole new launch."""
    script = "echo up; sleep 1000"
    async with guest(script, tmp_path, coco=coco, allow_reboot=True) as vm:
        await vm.wait_for("up\r?\n", timeout_s=DEADLINE_S)
        await vm.convert(GpaRange(256 << 20, 2 << 20), "shared")
        first = (await vm.query()).counters
        await vm.qmp("system_reset")
        await vm.wait_for("up\r?\n", timeout_s=DEADLINE_S)
        info = await vm.query()
        assert info.pages.shared == 0
        assert info.phase == "user"
        assert info.counters["to-shared"] == first["to-shared"] == 512
        assert info.counters["accepted"] > first["accepted"] > 1000
        assert info.counters["resets"] >= 1
        assert info.counters["host-faults"] == 0
        await vm.stop()
    phases = JournalFile(vm.run.events).of_kind(Kind.PHASE)["flags"].tolist()
    assert phases[-4:] == [Phase.LAUNCH, Phase.FIRMWARE, Phase.KERNEL, Phase.USER]
    assert phases.count(Phase.USER) == 2
