# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices of a TD: data goes through bounce buffers, and what does not is refused or denied."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import DeadlineExceeded
from cvmlab.images.boot_files import resolve
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.vm import Vm
from tests.guest.devices import (
    KICKED_BY_CPU,
    DiskDevice,
    Journaled,
    disk_script,
    host_server,
    kernel_symbols,
    net_script,
    said,
    written,
)
from tests.guest.test_devices import DEADLINE_S, DENIED_S, NET


pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

# With a guest object in the machine, virtio has iommu_platform=on of itself.
DISK = DiskDevice("blk", "vda", (f"virtio-blk-pci,id=blk,drive=blk-drive,addr=5{KICKED_BY_CPU}",))
OLD_DISK = DiskDevice(
    "old", "vda",
    ("virtio-blk-pci,id=old,drive=old-drive,addr=5,iommu_platform=off,disable-legacy=off",),
)  # fmt: skip
LOOK = "dmesg | grep -E 'tdx: Guest|Encryption Features|Unexpected|ACCESS_PLATFORM'; nproc"
IS_TD = ("tdx: Guest detected", "Memory Encryption Features active: Intel TDX")


@asynccontextmanager
async def td(folder: Path, image: str, command: str, **options: Any) -> AsyncIterator[Vm]:
    """Boot a TD with the drivers for its devices."""
    files = resolve(image, exec_command=command, append="nokaslr", extra_modules=(
        "virtio_blk", "virtio_net", "qemu_fw_cfg",
    ))  # fmt: skip
    spec = BootSpec(
        coco="tdx", kernel=files.kernel, initrd=files.initrd, append=files.append,
        rom_dirs=tuple(rom_dirs()), **options,
    )  # fmt: skip
    async with Vm(spec, run_dir=folder / "run", keep=True) as vm:
        yield vm


@pytest.mark.parametrize("image", ["debian", "debian-backports"])
@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
@pytest.mark.parametrize(("gpaw", "cpus"), [(48, 2), (52, 1)])
async def test_stock_kernels_boot_and_move_data_through_bounce_buffers(
    tmp_path: Path, image: str, firmware: str, gpaw: int, cpus: int
) -> None:
    extra = (*DISK.drive(tmp_path), *NET)
    content = hashlib.sha256(DISK.image(tmp_path).read_bytes()).hexdigest()
    async with host_server() as server:
        script = "; ".join([LOOK, disk_script(DISK), net_script(server)])
        options = {"firmware": Firmware(firmware), "guest_options": (f"gpaw={gpaw}",), "cpus": cpus}
        async with td(
            tmp_path, image, script, devices=DISK.devices, extra=extra, **options
        ) as vm:  # fmt: skip
            outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
            done = Journaled.of(vm, vm.run.events)
        assert outcome.guest_status == 0, done.console[-2000:]
        for line in (*IS_TD, f"\n{cpus}\n"):
            assert line in done.console.replace("\r", "")
        assert "Unexpected" not in done.console
        assert said(done.console, DISK.actor, "has") == content
        assert said(done.console, DISK.actor, "wrote") == written(DISK, tmp_path)
        assert said(done.console, "net", "has") == server.sent
        assert said(done.console, "net", "wrote") == server.received
    counters = done.info.counters
    names = ("host-faults", "guest-faults", "guest-violations")
    assert [counters[name] for name in names] == [0, 0, 0]


async def test_a_virtio_device_without_iommu_platform_is_refused_by_the_guest(
    tmp_path: Path,
) -> None:
    script = f"{LOOK}; test ! -e /dev/vda"
    options = {"devices": OLD_DISK.devices, "extra": OLD_DISK.drive(tmp_path)}
    async with td(tmp_path, "debian", script, **options) as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        done = Journaled.of(vm, vm.run.events)
    assert outcome.guest_status == 0
    assert "device must provide VIRTIO_F_ACCESS_PLATFORM" in done.console
    assert done.info.counters["host-faults"] == 0


async def test_fw_cfg_dma_to_private_memory_is_denied_and_journaled(tmp_path: Path) -> None:
    """The driver's note on the crash dump goes by the buffer's own address: it waits for ever."""
    async with td(tmp_path, "debian", "true", devices=("vmcoreinfo",)) as vm:
        with vm.events(limit=10_000) as batches:
            async with asyncio.timeout(DEADLINE_S):
                async for batch in batches:
                    if (batch["kind"] == Kind.HOST_FAULT).any():
                        break
        with pytest.raises(DeadlineExceeded):
            await vm.wait_exit(timeout_s=DENIED_S)
        await vm.stop()
        done = Journaled.of(vm, vm.run.events)
    symbols = kernel_symbols()
    assert {(fault["device"], fault["actor"]) for fault in done.faults} == {
        ("fw_cfg", Actor.DEVICE)
    }
    assert {fault["verdict"] for fault in done.faults} == {Verdict.DENY}
    assert all(fault["gpa"] < vm.spec.memory_bytes for fault in done.faults)
    assert {symbols.function(fault["rip"]) for fault in done.faults} == {"iowrite32be"}
