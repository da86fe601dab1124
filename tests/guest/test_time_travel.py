# SPDX-License-Identifier: GPL-2.0-or-later
"""A live Debian kernel at work is taken back to a checkpoint, again and again, and never notices.

By default a few times each; ``tox -e long`` does it a thousand times.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.images.boot_files import resolve
from cvmlab.machine.spec import Disk, DiskInterface
from cvmlab.memory.accounting import Books, differences
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.states import profiles
from cvmlab.vm.outcome import End
from cvmlab.vm.time_travel import Checkpoint
from cvmlab.vm.vm import Vm
from tests.guest.workload import work


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

# The last one needs a QEMU for aarch64, so that only long tests have it.
PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp", "cca"]
IMAGES = {"cca": "debian-arm64-sid"}
DEADLINE_S = 180
WORK = work(5, 4)


def working(coco: str, command: str = WORK, **options: Any) -> Vm:
    image = "debian-devices" if "disks" in options else IMAGES.get(coco, "debian")
    guest = resolve(image, exec_command=command)
    return Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=f"{guest.append} panic=0", coco=coco, memory="512M",
        cpus=2, net="user", **options,
    )  # fmt: skip


def look(vm: Vm) -> tuple[Any, ...]:
    """Return all that is as it was after a rewind: table, counters, storage of both files."""
    return (
        vm.pages.table.tobytes(), vm.pages.counters(), vm.pages.counts(),
        vm.memory_files.storage_bytes(),
    )  # fmt: skip


async def books_agree(vm: Vm) -> None:
    """The journal, without what was undone, leads to the table, the counters and the storage."""
    info = await vm.query()
    vm.journal.drain()
    books = Books(
        records=JournalFile(vm.run.events).written, states=vm.pages.table, pages=vm.pages.counts(),
        counters=vm.pages.counters(), storage=vm.memory_files.storage_bytes(),
        slots=info.memory_slots, rules=profiles()[vm.spec.coco], layout=vm.spec.memory_layout,
    )  # fmt: skip
    assert differences(books) == []


async def back_and_forth(vm: Vm, kept: Checkpoint, times: int) -> None:
    was = look(vm)
    for number in range(times):
        await vm.cont()
        await asyncio.sleep(0.01 * (number % 8))
        await vm.pause()
        assert (await vm.rewind(kept)).record == kept.record
        assert look(vm) == was, number
        if number % 16 == 0:
            await books_agree(vm)


async def travel(vm: Vm, times: int) -> None:
    async with vm:
        await vm.wait_for("pass 1: 0 bad", fail=[r"[1-9]\d* bad"], timeout_s=DEADLINE_S)
        await vm.pause()
        await back_and_forth(vm, await vm.checkpoint(), times)
        await vm.cont()
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
async def test_a_working_guest_goes_back_many_times(coco: str) -> None:
    await travel(working(coco), 24)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("coco", ["generic", "tdx"])
async def test_a_disk_goes_back_with_its_guest(tmp_path: Path, coco: str) -> None:
    disk, content = tmp_path / "disk", os.urandom(8 << 20)
    disk.write_bytes(content)
    more = {"on_host_access": "share"} if coco == "generic" else {"firmware": "ovmf"}
    await travel(working(coco, disks=(Disk(disk),), **more), 12)
    assert disk.read_bytes() == content


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("coco", PROFILES)
async def test_a_working_guest_goes_back_a_thousand_times(coco: str) -> None:
    await travel(working(coco), int(os.environ.get("CVMLAB_REWINDS", "1000")))


CRASH = "sleep 1; echo before; read told </dev/console; echo c >/proc/sysrq-trigger"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
async def test_a_guest_that_has_crashed_lives_again(coco: str) -> None:
    async with working(coco, CRASH, on_panic="wait") as vm:
        await vm.wait_for("before", timeout_s=DEADLINE_S)
        kept = await vm.checkpoint()
        assert kept.running
        for _ in range(3):
            seen = vm.console.text.count("sysrq triggered crash")
            await vm.send("\n")
            for _ in range(200):
                if vm.console.text.count("sysrq triggered crash") > seen:
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("the guest did not crash")
            await vm.rewind(kept)


@pytest.mark.timeout(200)
async def test_what_cannot_go_back_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    disk = Disk(tmp_path / "disk", interface=DiskInterface.NVME)
    async with working("generic", "echo kilroy; sleep 100", disks=(disk,)) as vm:
        await vm.wait_for("kilroy", timeout_s=DEADLINE_S)
        with pytest.raises(CommandRefused, match=r"non-migratable device '.*nvme'"):
            await vm.checkpoint()
        assert await vm.checkpoints() == []
        assert (await vm.qmp("query-status"))["running"]
