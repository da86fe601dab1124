# SPDX-License-Identifier: GPL-2.0-or-later
"""A live Debian kernel at work is saved, restored and forked, and none of its copies ever notices.

By default a few times each; ``tox -e long`` does it fifty times.
"""

import asyncio
import os
from pathlib import Path

import pytest

from cvmlab.machine.spec import Disk, DiskInterface
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.test_time_travel import DEADLINE_S, PROFILES, books_agree, look, working
from tests.guest.workload import work


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

COPIES = int(os.environ.get("CVMLAB_COPIES", "50"))  # of the long tests


async def started(vm: Vm) -> None:
    await vm.wait_for("pass 1: 0 bad", fail=[r"[1-9]\d* bad"], timeout_s=DEADLINE_S)


async def ends_well(vm: Vm) -> None:
    outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), vm.console.last_lines()


async def saved_and_restored(vm: Vm, times: int, folder: Path) -> None:
    """Save it while it works; each copy that is saved is the one which is saved next."""
    async with vm:
        await started(vm)
        await vm.pause()
        was = look(vm)
        await vm.save(folder / "0")
        await vm.cont()
        await ends_well(vm)
    for number in range(times):
        async with Vm.restore(folder / str(number), paused=True) as copy:
            assert look(copy) == was
            await books_agree(copy)
            await copy.cont()
            await asyncio.sleep(0.01 * (number % 8))
            await copy.pause()
            was = look(copy)
            await copy.save(folder / str(number + 1), compress=number % 8 == 7)
            if number in (0, times - 1):
                await copy.cont()
                await ends_well(copy)


async def forked(vm: Vm, times: int) -> None:
    """Fork it at many moments; it stands still while its copy is looked at, or works to its end."""
    async with vm:
        await started(vm)
        for number in range(times):
            await asyncio.sleep(0.01 * (number % 8))
            await vm.pause()
            was = look(vm)
            (copy,) = await vm.fork()
            async with copy:
                assert look(copy) == was
                await books_agree(copy)
                await copy.cont()
                if number in (0, times - 1):
                    await ends_well(copy)
            assert look(vm) == was
            await vm.cont()
        await ends_well(vm)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("coco", ["tdx"])
async def test_a_working_guest_is_saved_and_restored(coco: str, tmp_path: Path) -> None:
    await saved_and_restored(working(coco), 3, tmp_path)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("coco", ["sev-es"])
async def test_a_working_guest_is_forked(coco: str) -> None:
    await forked(working(coco), 3)


@pytest.mark.timeout(400)
async def test_each_copy_has_the_disk_as_it_was(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 << 20))
    disk = Disk(image, DiskInterface.VIRTIO_BLK)
    async with working("tdx", work(8, 2), disks=(disk,)) as vm:
        await started(vm)
        saved = await vm.save(tmp_path / "saved")
        first, second = await vm.fork(2)
        async with first, second:
            await ends_well(first)
            await ends_well(second)
        await ends_well(vm)
    async with Vm.restore(saved.path) as copy:
        await ends_well(copy)
    assert image.read_bytes() == bytes(8 << 20)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("coco", PROFILES)
async def test_fifty_snapshots(coco: str, tmp_path: Path) -> None:
    await saved_and_restored(working(coco, work(12, 4)), COPIES, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("coco", PROFILES)
async def test_fifty_forks(coco: str) -> None:
    await forked(working(coco, work(16, 4)), COPIES)
