# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line for what is to boot.  Pure: nothing is opened or started here."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cvmlab.bootspec import (
    DEFAULT_APPEND,
    LARGE_MEMORY_BYTES,
    SHARE_NAME,
    AccessPolicy,
    BootSpec,
    Disk,
    DiskInterface,
    Firmware,
    Net,
)
from cvmlab.guestobject import GUEST_ID, GUEST_OBJECTS, guest_object, mapgpa_options
from cvmlab.ranges import format_size
from cvmlab.states import Layout


BACKEND_ID = "ram0"


@dataclass(frozen=True, slots=True)
class BackendFds:
    """Descriptor numbers of one backend's files; ``shared`` is None when content stays in place."""

    private: int
    shared: int | None
    table: int
    ring: int

    @property
    def all(self) -> tuple[int, ...]:
        numbers = (getattr(self, field.name) for field in fields(self))
        return tuple(number for number in numbers if number is not None)


@dataclass(frozen=True, slots=True)
class Channels:
    """How QEMU is reached: numbers of inherited sockets, and paths in the run folder."""

    qmp_fd: int
    console_fd: int
    agent_fd: int
    qmp_socket: Path
    console_log: Path | None = None  # written by QEMU, with repetitions; see console.py
    overlays: tuple[Path, ...] = ()  # of the disks, qcow2; without them QEMU makes its own
    cpr_socket: Path | None = None  # to be made by QEMU: the guest comes over it from another
    quote_socket: Path | None = None  # of the service that a VM brings

    @classmethod
    def example(cls, run_dir: Path) -> "Channels":
        """Return what a dry run shows: the numbers are those of no open file."""
        return cls(3, 4, 5, run_dir / "qmp.sock", quote_socket=run_dir / "quotes.sock")


EXAMPLE_FDS = BackendFds(private=6, shared=7, table=8, ring=9)


def command_line(
    qemu: Path, spec: BootSpec, channels: Channels, fds: BackendFds | None
) -> list[str]:
    """Return the argv that boots *spec*.  QEMU starts paused, and pauses again at power-off."""
    return [
        str(qemu),
        *_machine(spec, fds, _quote_socket(spec, channels)),
        *_incoming(channels),
        *_firmware(spec),
        *_kernel(spec),
        *_monitors(channels),
        *_serial_ports(channels),
        *_disks(spec, channels.overlays),
        *_share(spec),
        *_net(spec),
        *_options("-device", spec.devices),
        *([] if spec.gdb is None else ["-gdb", spec.gdb]),
        *spec.extra,
    ]


def printable(argv: Sequence[str]) -> str:
    """Return *argv* as a shell would take it, an option and its value on a line."""
    lines: list[str] = []
    for word in argv:
        if lines and not word.startswith("-") and lines[-1].startswith("-"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return " \\\n  ".join(lines)


def _quote_socket(spec: BootSpec, channels: Channels) -> Path | None:
    return spec.quote_socket or (channels.quote_socket if spec.quotes else None)


def _machine(spec: BootSpec, fds: BackendFds | None, quote_socket: Path | None) -> list[str]:
    backend = [] if fds is None else ["-object", _backend(spec, fds)]
    memory = "" if fds is None else f",memory-backend={BACKEND_ID}"
    properties = (*spec.guest_options, *mapgpa_options(spec.coco, spec.mapgpa))
    guest = guest_object(spec.coco, properties, quote_socket)
    if guest:
        memory += f",confidential-guest-support={GUEST_ID}"
    if fds is not None:
        # ROM and the like must be in files as well, for another QEMU to take over the guest.
        memory += ",aux-ram-share=on"
    reboot = "reset" if spec.allow_reboot else "shutdown"
    # SeaBIOS lets q35's own AHCI controller write to memory, disks or none: a host fault each boot.
    has_ahci = any(disk.interface is DiskInterface.AHCI for disk in spec.disks)
    sata = "" if has_ahci else ",sata=off"
    # fmt: off
    return [
        "-no-user-config",
        "-nodefaults",
        "-S",
        *guest,
        *backend,
        "-machine", f"q35,smm=off{sata}{memory}",
        "-m", format_size(spec.memory_bytes),
        "-cpu", _cpu(spec),
        "-smp", str(spec.cpus),
        "-accel", f"tcg,thread=multi,tb-size={spec.tb_cache_bytes >> 20}",
        "-display", "none",
        "-vga", "none",
        "-action", f"shutdown=pause,reboot={reboot}",
        *([] if spec.rng_seed is None else ["-seed", str(spec.rng_seed)]),
    ]
    # fmt: on


def _incoming(channels: Channels) -> list[str]:
    if channels.cpr_socket is None:
        return []
    address = {"transport": "socket", "type": "unix", "path": str(channels.cpr_socket)}
    cpr = json.dumps({"channel-type": "cpr", "addr": address})
    return ["-incoming", cpr, "-incoming", "defer"]


def _cpu(spec: BootSpec) -> str:
    if spec.coco in GUEST_OBJECTS:
        return "max"  # the guest object chooses vendor and width
    # QEMU's 40 address bits end below 1 TiB of RAM with its PCI window on top.
    return "max" if spec.memory_bytes < LARGE_MEMORY_BYTES else "max,phys-bits=48"


def _backend(spec: BootSpec, fds: BackendFds) -> str:
    split = spec.memory_layout is Layout.SPLIT
    properties = {
        "id": BACKEND_ID,
        "size": format_size(spec.memory_bytes),
        "profile": spec.coco,
        "layout": spec.memory_layout,
        "access-policy": spec.on_host_access,
        "pending": spec.pending,
        "events": spec.events,
        "debuggable": "on" if spec.debuggable else "off",
        "private-fd": fds.private,
        **({"shared-fd": fds.shared} if split else {}),
        "table-fd": fds.table,
        "ring-fd": fds.ring,
    }
    return ",".join(["memory-backend-restricted", *(f"{k}={v}" for k, v in properties.items())])


def _firmware(spec: BootSpec) -> list[str]:
    places = _options("-L", map(str, spec.rom_dirs))
    match spec.firmware:
        case Firmware.SEABIOS:
            return places
        case Firmware.OVMF:
            return [*places, "-bios", "OVMF.fd"]
        case Path() as path:
            return [*places, "-bios", str(path)]


def _kernel(spec: BootSpec) -> list[str]:
    if spec.kernel is None:
        return []
    initrd = [] if spec.initrd is None else ["-initrd", str(spec.initrd)]
    append = f"{DEFAULT_APPEND} {spec.append}".rstrip()
    # Strict, so that SeaBIOS leaves the disks alone: it would poll a denied one for ever.
    return ["-kernel", str(spec.kernel), *initrd, "-append", append, "-boot", "strict=on"]


def _monitors(channels: Channels) -> list[str]:
    # fmt: off
    return [
        "-chardev", f"socket,id=qmp0,fd={channels.qmp_fd}",
        "-mon", "chardev=qmp0,mode=control",
        "-qmp", f"unix:{_value(channels.qmp_socket)},server=on,wait=off",
    ]
    # fmt: on


def _serial_ports(channels: Channels) -> list[str]:
    log = "" if channels.console_log is None else f",logfile={_value(channels.console_log)}"
    # fmt: off
    return [
        "-chardev", f"socket,id=console,fd={channels.console_fd}{log}",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=agent,fd={channels.agent_fd}",
        "-serial", "chardev:agent",
    ]
    # fmt: on


def _disks(spec: BootSpec, overlays: tuple[Path, ...]) -> list[str]:
    argv: list[str] = []
    for number, disk in enumerate(spec.disks):
        name = f"disk{number}"
        drive = f"if=none,id={name},format={disk.format},snapshot=on,file={_value(disk.path)}"
        if overlays:
            drive = f"if=none,id={name},format=qcow2,file={_value(overlays[number])}"
        argv += ["-drive", drive, "-device", _disk_device(spec, disk, number)]
    return argv


def _disk_device(spec: BootSpec, disk: Disk, number: int) -> str:
    name = f"disk{number}"
    match disk.interface:
        case DiskInterface.VIRTIO_BLK:
            serial = f",serial={disk.serial}" if disk.serial else ""
            return f"virtio-blk-pci,id={name}-pci,drive={name}{serial}{_virtio(spec)}"
        case DiskInterface.NVME:
            return f"nvme,id={name}-nvme,drive={name},serial={name}"
        case DiskInterface.AHCI:
            return f"ide-hd,id={name}-ide,drive={name},bus=ide.{number}"


def _share(spec: BootSpec) -> list[str]:
    if spec.share is None:
        return []
    folder = f"local,id=share,path={_value(spec.share)},security_model=none,readonly=on"
    device = f"virtio-9p-pci,id=share-pci,fsdev=share,mount_tag={SHARE_NAME}{_virtio(spec)}"
    return ["-fsdev", folder, "-device", device]


def _net(spec: BootSpec) -> list[str]:
    if spec.net is Net.NONE:
        return []
    device = f"virtio-net-pci,id=net0-pci,netdev=net0,romfile={_virtio(spec)}"
    return ["-netdev", "user,id=net0", "-device", device]


def _virtio(spec: BootSpec) -> str:
    platform = ",iommu_platform=on,disable-legacy=on" if spec.iommu_platform else ""
    # Where a kick ends in a fault, let it be handled by the vCPU that made it: then the fault has
    # an instruction to blame.
    judged = spec.restricted and spec.on_host_access is not AccessPolicy.SHARE
    return platform + (",ioeventfd=off" if judged else "")


def _value(path: Path) -> str:
    """Write a path so that QEMU does not end the value at a comma in it."""
    return str(path).replace(",", ",,")


def _options(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
