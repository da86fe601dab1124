# SPDX-License-Identifier: GPL-2.0-or-later
"""Invariant 3 for devices: what a device keeps working with is closed to it once it is converted."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind, Verdict
from tests.qemu import dma
from tests.qemu.bare_machine import page
from tests.qemu.conftest import Boot
from tests.qemu.hostpaths import SECRET_PAGES, Lab, open_lab, pci_function


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected"]
DATA = page(SECRET_PAGES)
Write = Callable[[], None]


def virtio(lab: Lab, queue_gpa: int) -> Write:
    queue = dma.legacy_queue(pci_function(lab, "blk"), 0xE000, queue_gpa)
    work = lab.work()
    return lambda: dma.virtio_block_write(queue, lab.guest, work, DATA)


def virtio_platform(lab: Lab, queue_gpa: int) -> Write:
    queue = dma.modern_queue(pci_function(lab, "platform-blk"), 0xD0000000, queue_gpa)
    work = lab.work()
    return lambda: dma.virtio_block_write(queue, lab.guest, work, DATA)


def nvme(lab: Lab, queue_gpa: int) -> Write:
    controller = dma.Nvme(pci_function(lab, "nvme"), 0xD1000000, queue_gpa)
    return lambda: controller.write_sector(DATA)


def ahci(lab: Lab, queue_gpa: int) -> Write:
    controller = dma.Ahci(pci_function(lab, "ahci"), 0xD2000000, queue_gpa)
    return lambda: controller.write_sector(DATA)


ALWAYS_ASK = [(virtio, "blk-pci"), (virtio_platform, "platform-blk-pci"), (nvme, "nvme-pci")]


@pytest.mark.parametrize("coco", PROFILES)
@pytest.mark.parametrize(("driver", "device"), ALWAYS_ASK)
async def test_a_queue_that_was_converted_is_closed(
    boot: Boot, tmp_path: Path, coco: str, driver: Callable[[Lab, int], Write], device: str
) -> None:
    async with open_lab(boot, tmp_path, coco=coco) as lab:
        queue = lab.work(dma.Virtqueue.PAGES)
        await lab.vm.convert("shared", DATA)
        write = driver(lab, queue)
        write()  # the control: it works until then, from the very same pages
        await lab.vm.convert("private", queue, count=dma.Virtqueue.PAGES)
        await lab.vm.events()
        with pytest.raises(dma.DeviceError):
            write()
        faults = [e for e in await lab.vm.events() if e.kind is Kind.HOST_FAULT]
        assert {(e.device, e.verdict) for e in faults} == {(device, Verdict.DENY)}
        assert all(queue <= e.gpa < queue + dma.Virtqueue.PAGES * PAGE_SIZE for e in faults)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="AHCI maps its command list and receive area for as long as the port runs: memory that "
    "was shared then stays mapped, as plugin/README says of transfers",
)
async def test_the_lists_of_ahci_are_closed(boot: Boot, tmp_path: Path) -> None:
    async with open_lab(boot, tmp_path, coco="sw-protected") as lab:
        lists = lab.work()
        await lab.vm.convert("shared", DATA)
        write = ahci(lab, lists)
        write()
        await lab.vm.convert("private", lists)
        lab.vm.assert_storage()
        with suppress(dma.DeviceError):
            write()
        lab.vm.assert_storage()  # a write to the old mapping brings the shared page back
