# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in which the host gets at guest memory, each as a function that tries it.

A path is given a page of the bare-metal guest and returns all that the host got out of it.
"""

import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cvmlab.base.errors import CommandRefused
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor
from tests.qemu import dma
from tests.qemu.bare_machine import EDU_BUFFER, BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote
from tests.qemu.tdx import become_td


SIZE = 64
SECRET_PAGES = 64  # from here on; the pages before are shared, for the drivers to work in
_DISK_BYTES = 1 << 20
_COREINFO_BYTES = 16
_DUMPED_BYTE = re.compile(r"(?<=\s)0x([0-9a-f]{2})\b")


@final
class Lab:
    """A bare-metal guest with one of each device, and what the host has at their other ends."""

    def __init__(self, vm: BareMachine, folder: Path, wire: socket.socket) -> None:
        self.vm = vm
        self.guest = vm.guest
        self.folder = folder
        self.wire = wire
        self._work = iter(range(SECRET_PAGES))

    def work(self, pages: int = 1) -> int:
        """Return the GPA of shared, zeroed, consecutive pages that nobody else uses."""
        first = page(next(self._work))
        for _ in range(pages - 1):
            next(self._work)
        return first

    async def share_zeros(self) -> None:
        """Share the pages before the secrets, with zeros in them, which the drivers rely on."""
        size = SECRET_PAGES * PAGE_SIZE
        await self.vm.convert("shared", page(0), count=SECRET_PAGES)
        if self.vm.files.fds.shared is not None:
            # Some profiles put noise there, for the first that looks.
            await self.qmp_file("pmemsave", val=page(0), size=size)
            os.pwrite(self.vm.files.fds.shared, bytes(size), page(0))

    async def hmp(self, line: str, *, cpu: int = 0) -> bytes:
        """Run a command of the human monitor, as one of the CPUs; return what it says."""
        arguments = {"command-line": line, "cpu-index": cpu}
        return str(await self.vm.qmp.execute("human-monitor-command", arguments)).encode()

    async def qmp_file(self, command: str, **arguments: Any) -> bytes:
        """Run a QMP command that writes a file; return its content and the error, if any."""
        file = self.folder / command
        said = b""
        try:
            await self.vm.qmp.execute(command, {**arguments, "filename": str(file)})
        except CommandRefused as error:
            said = str(error).encode()
        return said + (file.read_bytes() if file.exists() else b"")


@asynccontextmanager
async def open_lab(boot: Boot, folder: Path, **options: Any) -> AsyncIterator[Lab]:
    """Boot the guest with every device; no firmware sees any of them but ``edu``."""
    share = folder / "share"
    share.mkdir()
    for name in _DISKS:
        (folder / name).write_bytes(bytes(_DISK_BYTES))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(str(folder / "wire"))
        wire.settimeout(5)
        wires = f"local.type=unix,local.path={folder}/nic,remote.type=unix,remote.path={wire.getsockname()}"
        extra = [
            *(f"-drive=if=none,id={name},format=raw,file={folder}/{name}" for name in _DISKS),
            f"-netdev=dgram,id=net,{wires}",
            f"-fsdev=local,id=fs,path={share},security_model=none",
        ]
        words = [word for option in extra for word in option.split("=", 1)] + [
            "-smp",
            "1,maxcpus=2",
        ]
        if has_gdb(options):
            options["gdb"] = f"unix:{folder}/gdb,server=on,wait=off"
        async with boot(devices=_DEVICES, extra=tuple(words), **options) as vm:
            if vm.spec.coco == "tdx":
                become_td(vm)
            elif vm.spec.coco == "sev-snp":
                vm.reach_shared(0)
            await plug_cpu(vm)
            lab = Lab(vm, folder, wire)
            await lab.share_zeros()
            yield lab


async def plug_cpu(vm: BareMachine) -> None:
    """Plug in the second CPU, which waits for the guest to start it."""
    slots = await vm.qmp.execute("query-hotpluggable-cpus")
    (free,) = [slot for slot in slots if "qom-path" not in slot]
    await vm.qmp.execute("device_add", {"driver": free["type"], **free["props"]})
    assert len(await vm.qmp.execute("query-cpus-fast")) == 2


HIDING = ("tdx", "sev-es", "sev-snp")  # their CPU state is not the host's


def has_gdb(options: Mapping[str, Any]) -> bool:
    """Say whether a VM with these options may have a gdb server."""
    return options["coco"] not in HIDING or bool(options.get("debuggable"))


def paths_of(lab: Lab) -> "tuple[HostPath, ...]":
    """Return the paths that this VM has; without them are those that need its CPU state."""
    spec = lab.vm.spec
    if has_gdb({"coco": spec.coco, "debuggable": spec.debuggable}):
        return PATHS
    return tuple(path for path in PATHS if not (path.walks or path.by_cpu))


_DISKS = ("blk", "platform-blk", "nvme", "ahci")
_SLOTS = {"blk": 8, "platform-blk": 9, "nvme": 10, "ahci": 11, "net": 12, "9p": 13}
# A machine with a confidential guest object would have it the other way round.
_LEGACY = "iommu_platform=off,disable-legacy=off"
_DEVICES = (
    "edu,id=edu,dma_mask=0xffffffff",
    f"virtio-blk-pci,id=blk-pci,drive=blk,addr=8.1,{_LEGACY}",
    "virtio-blk-pci,id=platform-blk-pci,drive=platform-blk,addr=9.1,iommu_platform=on,disable-legacy=on",
    "nvme,id=nvme-pci,drive=nvme,serial=1,addr=a.1",
    "ahci,id=ahci-pci,addr=b.1",
    "ide-hd,drive=ahci,bus=ahci-pci.0",
    f"virtio-net-pci,id=net-pci,netdev=net,romfile=,addr=c.1,{_LEGACY}",
    "vmcoreinfo",
    f"virtio-9p-pci,id=share-pci,fsdev=fs,mount_tag=share,addr=d.1,{_LEGACY}",
)


@dataclass(frozen=True, slots=True)
class HostPath:
    """A way in: who is behind it, by the journal, and how to try it."""

    name: str
    actor: Actor
    device: str
    attempt: Callable[[Lab, int], Awaitable[bytes]]
    walks: bool = False  # through the guest's page tables, which are private
    by_cpu: bool = False  # needs the state of a CPU, or a debugger, which has it


def pci_function(lab: Lab, name: str) -> dma.PciFunction:
    """Return the device at the end of which *name* is."""
    return dma.PciFunction(lab.guest, _SLOTS[name])


async def _virtio_blk(lab: Lab, gpa: int) -> bytes:
    queue = dma.legacy_queue(pci_function(lab, "blk"), 0xE000, lab.work(dma.Virtqueue.PAGES))
    dma.virtio_block_write(queue, lab.guest, lab.work(), gpa)
    return (lab.folder / "blk").read_bytes()


async def _virtio_blk_platform(lab: Lab, gpa: int) -> bytes:
    function = pci_function(lab, "platform-blk")
    queue = dma.modern_queue(function, 0xD0000000, lab.work(dma.Virtqueue.PAGES))
    dma.virtio_block_write(queue, lab.guest, lab.work(), gpa)
    return (lab.folder / "platform-blk").read_bytes()


async def _virtio_net(lab: Lab, gpa: int) -> bytes:
    queue = dma.legacy_queue(pci_function(lab, "net"), 0xE100, lab.work(dma.Virtqueue.PAGES), 1)
    dma.virtio_net_send(queue, lab.work(), gpa, SIZE)
    return lab.wire.recv(2048)


async def _nine_pea(lab: Lab, gpa: int) -> bytes:
    queue = dma.legacy_queue(pci_function(lab, "9p"), 0xE200, lab.work(dma.Virtqueue.PAGES))
    dma.NinePea(queue, lab.guest, lab.work()).write_file("file", gpa, SIZE)
    return (lab.folder / "share" / "file").read_bytes()


async def _nvme(lab: Lab, gpa: int) -> bytes:
    dma.Nvme(pci_function(lab, "nvme"), 0xD1000000, lab.work(dma.Nvme.PAGES)).write_sector(gpa)
    return (lab.folder / "nvme").read_bytes()


async def _ahci(lab: Lab, gpa: int) -> bytes:
    dma.Ahci(pci_function(lab, "ahci"), 0xD2000000, lab.work()).write_sector(gpa)
    return (lab.folder / "ahci").read_bytes()


async def _edu(lab: Lab, gpa: int) -> bytes:
    scratch = lab.work()
    lab.guest.done("edu-dma", gpa, EDU_BUFFER, SIZE)
    lab.guest.done("edu-dma", EDU_BUFFER, scratch, SIZE)
    return lab.guest.read_bytes(scratch, SIZE)


async def _fw_cfg(lab: Lab, gpa: int) -> bytes:
    files = dma.FirmwareConfig(lab.guest, lab.work(2))
    key = files.key("etc/vmcoreinfo")  # a file that the guest may write
    files.write(key, gpa, _COREINFO_BYTES)
    return files.read(key, _COREINFO_BYTES)


async def _qtest(lab: Lab, gpa: int) -> bytes:
    path = lab.folder / "qtest"
    address = {"type": "unix", "data": {"path": str(path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    await lab.vm.qmp.execute("chardev-add", {"id": "qtest0", "backend": backend})
    test = {"qom-type": "qtest", "id": "test0", "chardev": "qtest0"}
    await lab.vm.qmp.execute("object-add", test)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(f"read {gpa:#x} {SIZE}\n".encode())
        answer = client.makefile("rb").readline()
    return answer + bytes.fromhex(answer.decode().partition("0x")[2])


async def _pmemsave(lab: Lab, gpa: int) -> bytes:
    return await lab.qmp_file("pmemsave", val=gpa, size=SIZE)


async def _memsave(lab: Lab, gpa: int) -> bytes:
    return await lab.qmp_file("memsave", val=gpa, size=SIZE)  # addresses are mapped one to one


async def _xp(lab: Lab, gpa: int) -> bytes:
    return dumped(await lab.hmp(f"xp /{SIZE}bx {gpa:#x}"))


async def _xp_plugged(lab: Lab, gpa: int) -> bytes:
    return dumped(await lab.hmp(f"xp /{SIZE}bx {gpa:#x}", cpu=1))


async def _x_plugged(lab: Lab, gpa: int) -> bytes:
    return dumped(await lab.hmp(f"x /{SIZE}bx {gpa:#x}", cpu=1))  # that CPU has no paging yet


async def _x(lab: Lab, gpa: int) -> bytes:
    return dumped(await lab.hmp(f"x /{SIZE}bx {gpa:#x}"))


async def _gdb_virtual(lab: Lab, gpa: int) -> bytes:
    with GdbRemote(lab.folder / "gdb") as gdb:
        return _answer(gdb.read(gpa, SIZE))


async def _gdb_physical(lab: Lab, gpa: int) -> bytes:
    with GdbRemote(lab.folder / "gdb") as gdb:
        gdb.use_physical_addresses()
        return _answer(gdb.read(gpa, SIZE))


async def _gdb_monitor(lab: Lab, gpa: int) -> bytes:
    with GdbRemote(lab.folder / "gdb") as gdb:
        return dumped(gdb.command(f"xp /{SIZE}bx {gpa:#x}").encode())


def _answer(answer: bytes | str) -> bytes:
    return answer.encode() if isinstance(answer, str) else answer


def dumped(text: bytes) -> bytes:
    """Return the bytes that a monitor's memory dump shows, after its text."""
    shown = _DUMPED_BYTE.findall(text.decode(errors="replace"))
    return text + bytes.fromhex("".join(shown))


DEVICE_PATHS = (
    HostPath("virtio-blk", Actor.DEVICE, "blk-pci", _virtio_blk),
    HostPath("virtio-blk, iommu_platform", Actor.DEVICE, "platform-blk-pci", _virtio_blk_platform),
    HostPath("virtio-net", Actor.DEVICE, "net-pci", _virtio_net),
    HostPath("virtio-9p", Actor.DEVICE, "share-pci", _nine_pea),
    HostPath("NVMe", Actor.DEVICE, "nvme-pci", _nvme),
    HostPath("AHCI", Actor.DEVICE, "ahci-pci", _ahci),
    HostPath("edu", Actor.DEVICE, "edu", _edu),
    HostPath("fw_cfg", Actor.DEVICE, "fw_cfg", _fw_cfg),
    HostPath("qtest", Actor.HOST, "host", _qtest),
)
OPERATOR_PATHS = (
    HostPath("pmemsave", Actor.MONITOR, "monitor", _pmemsave),
    HostPath("memsave", Actor.MONITOR, "monitor", _memsave, walks=True),
    HostPath("xp", Actor.MONITOR, "monitor", _xp),
    HostPath("x", Actor.MONITOR, "monitor", _x, walks=True),
    HostPath("gdb, virtual", Actor.GDB, "gdb", _gdb_virtual, walks=True),
    HostPath("gdb, physical", Actor.GDB, "gdb", _gdb_physical, by_cpu=True),
    HostPath("gdb, monitor command", Actor.MONITOR, "monitor", _gdb_monitor, by_cpu=True),
    HostPath("xp by a plugged CPU", Actor.MONITOR, "monitor", _xp_plugged),
    HostPath("x by a plugged CPU", Actor.MONITOR, "monitor", _x_plugged, by_cpu=True),
)
PATHS = DEVICE_PATHS + OPERATOR_PATHS
