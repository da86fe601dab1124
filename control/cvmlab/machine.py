# SPDX-License-Identifier: GPL-2.0-or-later
"""What to boot, and the QEMU command line for it.  Pure: nothing is opened or started here."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from cvmlab.errors import ConfigError
from cvmlab.guestobject import GUEST_ID, GUEST_OBJECTS, guest_object
from cvmlab.ranges import PAGE_SIZE, format_size
from cvmlab.states import Layout, profiles


PROFILE_OFF = "off"
BACKEND_ID = "ram0"
MIN_MEMORY_BYTES = 16 << 20
LARGE_MEMORY_BYTES = 256 << 30
MAX_MEMORY_BYTES = 1 << 46
MAX_CPUS = 255
# panic=-1 reboots at once, which ends the run; the console says that it was a panic.
DEFAULT_APPEND = "console=ttyS0,115200 panic=-1 loglevel=4"


class AccessPolicy(StrEnum):
    """What happens when the host touches private memory."""

    DENY = "deny"
    SHARE = "share"
    ZERO = "zero"
    STOP = "stop"


class PendingPolicy(StrEnum):
    """What happens when a guest CPU touches a page it has not accepted."""

    ACCEPT = "accept"
    STOP = "stop"


class EventLoss(StrEnum):
    """What a producer does when the event ring is full."""

    LOSSY = "lossy"
    LOSSLESS = "lossless"


class Firmware(StrEnum):
    SEABIOS = "seabios"
    OVMF = "ovmf"


class Net(StrEnum):
    USER = "user"
    NONE = "none"


class DiskInterface(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    NVME = "nvme"
    AHCI = "ahci"


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image.  It is never written: what the guest writes is lost with the VM."""

    path: Path
    interface: DiskInterface = DiskInterface.VIRTIO_BLK
    format: DiskFormat = DiskFormat.RAW


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSpec:
    """A VM to boot.  Every default of the project is here.

    ``append`` is added to DEFAULT_APPEND; ``devices`` are values for ``-device``; ``firmware`` is
    one we know or a file; ``guest_options`` are properties of the confidential-guest object, such
    as "sept-ve-disable=off"; ``quote_socket`` is a quote generation service's (see quotes.py);
    ``gdb`` is what QEMU's ``-gdb`` takes; ``rng_seed`` makes QEMU's own
    random numbers repeat; ``extra`` goes to QEMU as it is, at the end.
    """

    coco: str = "generic"
    guest_options: tuple[str, ...] = ()
    quote_socket: Path | None = None
    memory_bytes: int = 1 << 30
    cpus: int = 1
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    disks: tuple[Disk, ...] = ()
    net: Net = Net.NONE
    devices: tuple[str, ...] = ()
    firmware: Firmware | Path = Firmware.SEABIOS
    on_host_access: AccessPolicy = AccessPolicy.DENY
    pending: PendingPolicy = PendingPolicy.ACCEPT
    events: EventLoss = EventLoss.LOSSY
    layout: Layout | None = None
    gdb: str | None = None
    debuggable: bool = False
    iommu_platform: bool = False
    allow_reboot: bool = False
    rng_seed: int | None = None
    rom_dirs: tuple[Path, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def restricted(self) -> bool:
        return self.coco != PROFILE_OFF

    @property
    def memory_layout(self) -> Layout:
        """The layout asked for, or else the profile's."""
        return self.layout or profiles()[self.coco].layout

    def validate(self) -> None:
        """Raise ConfigError if QEMU could not run this, naming the first thing that is wrong."""
        if self.restricted and self.coco not in profiles():
            known = ", ".join([*profiles(), PROFILE_OFF])
            raise ConfigError(f"unknown profile {self.coco!r}", hint=f"known are {known}")
        require_memory_size(self.memory_bytes)
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise ConfigError(
                f"{format_size(self.memory_bytes)} of memory is too little to boot a PC",
                hint=f"give it {format_size(MIN_MEMORY_BYTES)} or more",
            )
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"{self.cpus} CPUs: there may be 1 to {MAX_CPUS}")
        if self.kernel is None and (self.initrd is not None or self.append):
            raise ConfigError("an initrd or a kernel command line needs a kernel", hint="--kernel")
        self._validate_policies()
        if (self.guest_options or self.quote_socket) and self.coco not in GUEST_OBJECTS:
            raise ConfigError(
                f"profile {self.coco} has no guest object that could take options",
                hint=f"profiles that do: {', '.join(GUEST_OBJECTS)}",
            )
        for path in self._files():
            if not path.is_file():
                raise ConfigError(f"there is no file {path}")

    def _validate_policies(self) -> None:
        if not self.restricted:
            return
        if self.on_host_access is AccessPolicy.SHARE and self.memory_layout is Layout.SPLIT:
            raise ConfigError(
                f"policy share needs content to stay in place, and {self.coco} has two files",
                hint="--on-host-access deny, zero or stop",
            )

    def _files(self) -> Iterable[Path]:
        yield from (path for path in (self.kernel, self.initrd) if path is not None)
        yield from (disk.path for disk in self.disks)
        if isinstance(self.firmware, Path):
            yield self.firmware


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


def require_memory_size(size_bytes: int) -> None:
    """Raise ConfigError unless *size_bytes* is a possible amount of guest memory."""
    if size_bytes <= 0 or size_bytes % PAGE_SIZE:
        raise ConfigError(
            f"guest memory of {size_bytes} bytes is not a positive multiple of 4 KiB",
            hint="give a size such as 512M or 1G",
        )
    if size_bytes > MAX_MEMORY_BYTES:
        raise ConfigError(f"{format_size(size_bytes)} of memory is more than a PC can address")


@dataclass(frozen=True, slots=True)
class Channels:
    """How QEMU is reached: numbers of inherited sockets, and paths in the run folder."""

    qmp_fd: int
    console_fd: int
    agent_fd: int
    qmp_socket: Path
    console_log: Path | None = None  # written by QEMU, with repetitions; see console.py

    @classmethod
    def example(cls, run_dir: Path) -> "Channels":
        """Return what a dry run shows: the numbers are those of no open file."""
        return cls(3, 4, 5, run_dir / "qmp.sock")


EXAMPLE_FDS = BackendFds(private=6, shared=7, table=8, ring=9)


def command_line(
    qemu: Path, spec: BootSpec, channels: Channels, fds: BackendFds | None
) -> list[str]:
    """Return the argv that boots *spec*.  QEMU starts paused, and pauses again at power-off."""
    return [
        str(qemu),
        *_machine(spec, fds),
        *_firmware(spec),
        *_kernel(spec),
        *_monitors(channels),
        *_serial_ports(channels),
        *_disks(spec),
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


def _machine(spec: BootSpec, fds: BackendFds | None) -> list[str]:
    backend = [] if fds is None else ["-object", _backend(spec, fds)]
    memory = "" if fds is None else f",memory-backend={BACKEND_ID}"
    guest = guest_object(spec.coco, spec.guest_options, spec.quote_socket)
    if guest:
        memory += f",confidential-guest-support={GUEST_ID}"
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
        "-accel", "tcg,thread=multi,tb-size=256",
        "-display", "none",
        "-vga", "none",
        "-action", f"shutdown=pause,reboot={reboot}",
        *([] if spec.rng_seed is None else ["-seed", str(spec.rng_seed)]),
    ]
    # fmt: on


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


def _disks(spec: BootSpec) -> list[str]:
    argv: list[str] = []
    for number, disk in enumerate(spec.disks):
        name = f"disk{number}"
        drive = f"if=none,id={name},format={disk.format},snapshot=on,file={_value(disk.path)}"
        argv += ["-drive", drive, "-device", _disk_device(spec, disk, number)]
    return argv


def _disk_device(spec: BootSpec, disk: Disk, number: int) -> str:
    name = f"disk{number}"
    match disk.interface:
        case DiskInterface.VIRTIO_BLK:
            return f"virtio-blk-pci,id={name}-pci,drive={name}{_virtio(spec)}"
        case DiskInterface.NVME:
            return f"nvme,id={name}-nvme,drive={name},serial={name}"
        case DiskInterface.AHCI:
            return f"ide-hd,id={name}-ide,drive={name},bus=ide.{number}"


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
