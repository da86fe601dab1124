# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest with devices, and what the journal says about them."""

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvmlab.images.boot_files import resolve
from cvmlab.images.symbols import Symbols, from_elf
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.records import NO_DEVICE, Actor, Kind
from cvmlab.profiles.architecture import X86_64
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.operations import BackendInfo
from cvmlab.vm.vm import Vm


IMAGE = "debian-devices"
PC_FIRMWARE = [Firmware(word) for word in X86_64.firmware_words]
DISK_BYTES = 4 << 20
# Shell that makes a report of configfs-tsm and goes to it; drivers: --quotes.
TSM_REPORT = (
    "mount -t configfs c /sys/kernel/config && mkdir /sys/kernel/config/tsm/report/r && "
    "cd /sys/kernel/config/tsm/report/r && head -c 64 /dev/zero | tr '\\0' A > inblob"
)
WRITTEN_BYTES = 256 << 10
WRITTEN_AT = 1 << 20
MEMORY_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class DiskDevice:
    """A disk in QEMU and its name in the guest; ``actor`` is the device that does its DMA."""

    actor: str
    node: str
    devices: tuple[str, ...]

    def drive(self, folder: Path) -> tuple[str, ...]:
        """Make the image with random contents; what the guest writes goes to it."""
        seed = sum(self.actor.encode())
        self.image(folder).write_bytes(random.Random(seed).randbytes(DISK_BYTES))
        file = f"if=none,id={self.actor}-drive,format=raw,file={self.image(folder)}"
        return ("-drive", file)

    def image(self, folder: Path) -> Path:
        return folder / f"{self.actor}.img"


def _virtio(actor: str, node: str, slot: int, options: str = "") -> DiskDevice:
    device = f"virtio-blk-pci,id={actor},drive={actor}-drive,addr={slot:x}{options}"
    return DiskDevice(actor, node, (device,))


VIRTIO = _virtio("blk", "vda", 5)
VIRTIO_PLATFORM = _virtio("platform-blk", "vdb", 6, ",iommu_platform=on,disable-legacy=on")
NVME = DiskDevice("nvme0", "nvme0n1", ("nvme,id=nvme0,drive=nvme0-drive,serial=1,addr=7",))
AHCI = DiskDevice("sata0", "sda", ("ahci,id=sata0,addr=8", "ide-hd,drive=sata0-drive,bus=sata0.0"))
NIC = "net0"
# Where a kick ends in a fault, the vCPU that made it handles it, and can be blamed.
KICKED_BY_CPU = ",ioeventfd=off"


@dataclass(frozen=True, slots=True)
class Journaled:
    """A VM that has ended: its console, its counters, and its journal by device."""

    console: str
    info: BackendInfo
    converted: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, vm: Vm, events: Path) -> "Journaled":
        assert vm.last_info is not None
        self = cls(vm.console.text, vm.last_info)
        journal = JournalFile(events)
        names = vm.last_info.devices
        for record in journal.of_kind(Kind.CONVERT):
            if record["actor"] == Actor.DEVICE:
                self.converted[names[int(record["device"])]] += int(record["pages"])
        for record in journal.of_kind(Kind.HOST_FAULT):
            device = int(record["device"])
            fields: dict[str, Any] = {
                name: int(record[name]) for name in ("gpa", "rip", "actor", "verdict")
            }
            fields["device"] = None if device == NO_DEVICE else names[device]
            self.faults.append(fields)
        return self


def guest_options(command: str, *, image: str = IMAGE, **options: Any) -> dict[str, Any]:
    """Return BootSpec options for a guest that runs *command*, at addresses that are known."""
    modules = () if image == IMAGE else ("virtio_blk", "virtio_net")
    files = resolve(image, exec_command=command, append="nokaslr", extra_modules=modules)
    return {
        "kernel": files.kernel, "initrd": files.initrd, "append": files.append,
        "rom_dirs": tuple(rom_dirs()), "memory_bytes": MEMORY_BYTES, **options,
    }  # fmt: skip


def kernel_symbols() -> Symbols:
    """Return the names of the guest kernel's functions."""
    return from_elf(extract_vmlinux(resolve(IMAGE).kernel))


@asynccontextmanager
async def guest(command: str, folder: Path, **options: Any) -> AsyncIterator[Vm]:
    """Boot the guest; its run folder is *folder*/run."""
    spec = BootSpec(**guest_options(command, **options))
    async with Vm(spec, run_dir=folder / "run", keep=True) as vm:
        yield vm


def disk_script(disk: DiskDevice) -> str:
    """Return shell that reads all of the disk, writes a part of it, and prints both checksums."""
    node, block = f"/dev/{disk.node}", 64 << 10
    return (
        f"/bin/sh -c 'echo {disk.actor} has $(sha256sum <{node}); "
        f"dd if=/dev/urandom of=/tmp/{disk.actor} bs={WRITTEN_BYTES} count=1 2>/dev/null; "
        f"dd if=/tmp/{disk.actor} of={node} bs={block} seek={WRITTEN_AT // block} conv=fsync "
        f"2>/dev/null; echo {disk.actor} wrote $(sha256sum </tmp/{disk.actor})'"
    )


def said(console: str, device: str, verb: str) -> str:
    """Return the checksum that the guest printed."""
    found = re.search(rf"{device} {verb} ([0-9a-f]{{64}})", console)
    assert found is not None, console[-2000:]
    return found[1]


def written(disk: DiskDevice, folder: Path) -> str:
    """Return the checksum of what the guest wrote, from the image."""
    data = disk.image(folder).read_bytes()[WRITTEN_AT : WRITTEN_AT + WRITTEN_BYTES]
    return hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class HostServer:
    """Serves random bytes to one client and takes as many from the next."""

    sent: str = ""
    received: str = ""
    ports: tuple[int, int] = (0, 0)


@asynccontextmanager
async def host_server() -> AsyncIterator[HostServer]:
    """Listen on two ports of the host's loopback, which the guest reaches as 10.0.2.2."""
    state = HostServer()
    data = random.Random(3).randbytes(WRITTEN_BYTES)
    state.sent = hashlib.sha256(data).hexdigest()

    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.received = hashlib.sha256(await reader.readexactly(WRITTEN_BYTES)).hexdigest()
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(give, "127.0.0.1", 0) as giver,
        await asyncio.start_server(take, "127.0.0.1", 0) as taker,
    ):
        state.ports = (_port(giver), _port(taker))
        yield state


def _port(server: asyncio.Server) -> int:
    port = server.sockets[0].getsockname()[1]
    assert isinstance(port, int)
    return port


def net_script(server: HostServer) -> str:
    """Return shell that downloads, uploads, and prints both checksums."""
    down, up = server.ports
    return (
        "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; "
        f"nc 10.0.2.2 {down} </dev/null >/tmp/down; echo net has $(sha256sum </tmp/down); "
        f"dd if=/dev/urandom of=/tmp/up bs={WRITTEN_BYTES} count=1 2>/dev/null; "
        f"nc 10.0.2.2 {up} </tmp/up; echo net wrote $(sha256sum </tmp/up)"
    )
