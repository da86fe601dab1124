# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line of a BootSpec.  Pure: nothing is opened or started here."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from cvmlab.machine.spec import (
    SHARE_NAME,
    AccessPolicy,
    BootSpec,
    Disk,
    DiskInterface,
    Net,
    Stacks,
)
from cvmlab.memory.ranges import format_size
from cvmlab.memory.states import Layout
from cvmlab.profiles.cpu_models import cpu
from cvmlab.profiles.guest_object import GUEST_ID, guest_object, policy_options


BACKEND_ID = "ram0"
DEBUG_SOCKET = "debug.sock"
# An instruction takes 2**3 ns of the guest's time, about as long as TCG needs for it.
_INSTRUCTION_SHIFT = 3
_DESCRIPTOR = re.compile(r"\b(?:[a-z]+-)?fd=([0-9]+)")


@dataclass(frozen=True, slots=True)
class BackendFds:
    """Descriptor numbers of one backend's files.

    ``shared`` is None when content stays in place, ``stacks`` when nobody asks who caused events.
    """

    private: int
    shared: int | None
    table: int
    ring: int
    stacks: int | None = None

    @classmethod
    def of(cls, numbers: Mapping[str, int]) -> Self:
        """Return those that are named in *numbers*."""
        return cls(
            numbers["private"],
            numbers.get("shared"),
            numbers["table"],
            numbers["ring"],
            numbers.get("stacks"),
        )

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
    console_log: Path | None = None  # written by QEMU, with repetitions: see console.py
    overlays: tuple[Path, ...] = ()  # of the disks, qcow2; without them QEMU makes its own
    cpr_socket: Path | None = None  # QEMU makes it, and receives the guest of another QEMU there
    quote_socket: Path | None = None  # of the attestation service that a VM starts
    certificates: Path | None = None  # that the host hands to a guest whose reports are signed
    restores: bool = False  # QEMU waits for a saved guest, whose memory the files have
    execution_log: Path | None = None  # QEMU writes it: what reaches the guest, and when
    replays: bool = False  # QEMU reads the log instead

    @classmethod
    def example(cls, run_dir: Path) -> "Channels":
        """Return what a dry run shows; no file is open under these numbers."""
        return cls(
            3,
            4,
            5,
            run_dir / "qmp.sock",
            quote_socket=run_dir / "quotes.sock",
            certificates=run_dir / "certificates.bin",
        )


EXAMPLE_FDS = BackendFds(private=6, shared=7, table=8, ring=9, stacks=10)


def command_line(
    qemu: Path, spec: BootSpec, channels: Channels, fds: BackendFds | None
) -> list[str]:
    """Return the argv that boots *spec*.  QEMU starts paused and pauses again at power-off."""
    return [
        str(qemu),
        *_machine(spec, fds, channels),
        *_incoming(channels),
        *_firmware(spec),
        *_kernel(spec),
        *_monitors(channels),
        *_debugger(spec, channels),
        *_serial_ports(channels),
        *_disks(spec, channels),
        *_share(spec),
        *_net(spec, channels),
        *_options("-device", spec.devices),
        *([] if spec.gdb is None else ["-gdb", spec.gdb]),
        *spec.extra,
    ]


def why_not_to_paste(argv: Sequence[str]) -> str:
    """Say why a shell cannot run *argv*: it has descriptors that only cvmlab can open."""
    numbers = sorted({int(number) for word in argv for number in _DESCRIPTOR.findall(word)})
    return (
        f"this command cannot be pasted into a shell: descriptors {numbers[0]} to {numbers[-1]} are "
        "sockets and memory files that cvmlab opens before it starts QEMU"
    )


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
    return spec.quote_socket or (channels.quote_socket if spec.has_quotes else None)


def _machine(spec: BootSpec, fds: BackendFds | None, channels: Channels) -> list[str]:
    backend = [] if fds is None else ["-object", _backend(spec, fds)]
    properties = (*spec.guest_options, *policy_options(spec.profile.host_policy, spec.host_answer))
    certificates = None if spec.attest is None else channels.certificates
    guest = guest_object(spec.profile, properties, _quote_socket(spec, channels), certificates)
    reboot = "reset" if spec.allow_reboot else "shutdown"
    # fmt: off
    return [
        "-no-user-config",
        "-nodefaults",
        "-S",
        *guest,
        *backend,
        "-machine", _machine_type(spec, has_backend=fds is not None, has_guest=bool(guest)),
        "-m", format_size(spec.memory_bytes),
        "-cpu", _cpu(spec),
        "-smp", str(spec.cpus),
        *_acceleration(spec, channels),
        "-display", "none",
        "-vga", "none",
        "-action", f"shutdown=pause,reboot={reboot}",
        *([] if spec.rng_seed is None else ["-seed", str(spec.rng_seed)]),
    ]
    # fmt: on


def _acceleration(spec: BootSpec, channels: Channels) -> list[str]:
    """Without a log, a thread for each CPU.  QEMU counts instructions in one thread only."""
    counts = channels.execution_log is not None or "-icount" in spec.extra
    threads = "single" if counts else "multi"
    argv = ["-accel", f"tcg,thread={threads},tb-size={spec.tb_cache_bytes >> 20}"]
    if channels.execution_log is not None:
        word = "replay" if channels.replays else "record"
        log = _value(channels.execution_log)
        argv += ["-icount", f"shift={_INSTRUCTION_SHIFT},rr={word},rrfile={log}"]
    return argv


def _incoming(channels: Channels) -> list[str]:
    if channels.restores:
        return ["-incoming", "defer"]
    if channels.cpr_socket is None:
        return []
    address = {"transport": "socket", "type": "unix", "path": str(channels.cpr_socket)}
    cpr = json.dumps({"channel-type": "cpr", "addr": address})
    return ["-incoming", cpr, "-incoming", "defer"]


def _machine_type(spec: BootSpec, *, has_backend: bool, has_guest: bool) -> str:
    machine = spec.architecture.machine
    words = [machine.type, *machine.options]
    if not _has_ahci(spec):
        words += machine.without_ahci
    if has_backend:
        words.append(f"memory-backend={BACKEND_ID}")
    if has_guest:
        words.append(f"confidential-guest-support={GUEST_ID}")
    if has_backend:
        # ROM and the like must be in files, too, so that another QEMU can take over the guest.
        words.append("aux-ram-share=on")
    return ",".join(words)


def _cpu(spec: BootSpec) -> str:
    chosen = cpu(spec.profile, spec.cpu)
    return chosen or spec.architecture.machine.cpu_for(spec.memory_bytes)


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
        **(
            {"stacks-fd": fds.stacks} if fds.stacks is not None and spec.stacks is Stacks.ON else {}
        ),
    }
    return ",".join(["memory-backend-restricted", *(f"{k}={v}" for k, v in properties.items())])


def _firmware(spec: BootSpec) -> list[str]:
    places = _options("-L", map(str, spec.rom_dirs))
    if isinstance(spec.firmware, Path):
        return [*places, "-bios", str(spec.firmware)]
    bios = spec.architecture.bios_of(spec.firmware)
    return places if bios is None else [*places, "-bios", bios]


def kernel_command_line(spec: BootSpec) -> str:
    """Return the whole command line of a kernel that QEMU loads."""
    return f"{spec.architecture.append} {spec.append}".rstrip()


def _kernel(spec: BootSpec) -> list[str]:
    if spec.kernel is None:
        # SeaBIOS then resets at once if it finds nothing to boot; it would wait for a minute.
        return [] if spec.allow_reboot else ["-boot", "reboot-timeout=0"]
    initrd = [] if spec.initrd is None else ["-initrd", str(spec.initrd)]
    append = kernel_command_line(spec)
    # Strict, so that SeaBIOS does not touch the disks: it would poll a denied one forever.
    return ["-kernel", str(spec.kernel), *initrd, "-append", append, "-boot", "strict=on"]


def _monitors(channels: Channels) -> list[str]:
    path = _value(channels.qmp_socket)
    # QEMU takes a path with = for an option, unless it has a name.
    name = "path=" if "=" in path else ""
    # fmt: off
    return [
        "-chardev", f"socket,id=qmp0,fd={channels.qmp_fd}",
        "-mon", "chardev=qmp0,mode=control",
        "-qmp", f"unix:{name}{path},server=on,wait=off",
    ]
    # fmt: on


def _debugger(spec: BootSpec, channels: Channels) -> list[str]:
    """A socket of its own: a debugger stays connected, and a socket has one client at a time.

    A second QEMU has none, because the first one would remove it at its end.
    """
    if not spec.debuggable or channels.cpr_socket is not None:
        return []
    return ["-qmp", f"unix:path={_value(debug_socket(channels.qmp_socket))},server=on,wait=off"]


def debug_socket(qmp_socket: Path) -> Path:
    """Return where a debuggable VM with that QMP socket has one for debuggers."""
    return qmp_socket.with_name(DEBUG_SOCKET)


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


def _disks(spec: BootSpec, channels: Channels) -> list[str]:
    overlays = channels.overlays
    argv = _options("-device", spec.architecture.machine.ahci) if _has_ahci(spec) else []
    for number, disk in enumerate(spec.disks):
        name = f"disk{number}"
        drive = (
            f"if=none,id={name},format={disk.format},snapshot=on,file={_value(_plain(disk.path))}"
        )
        if overlays:
            drive = f"if=none,id={name},format=qcow2,file={_value(overlays[number])}"
        if channels.execution_log is not None:
            argv += ["-blockdev", _recorded_disk(f"{name}-file", overlays[number])]
            drive = f"if=none,id={name},driver=blkreplay,image={name}-file"
        argv += ["-drive", drive, "-device", _disk_device(spec, disk, number)]
    return argv


def _has_ahci(spec: BootSpec) -> bool:
    return any(disk.interface is DiskInterface.AHCI for disk in spec.disks)


def _recorded_disk(name: str, overlay: Path) -> str:
    """What is below the filter that keeps the order of requests in the log."""
    file = {"driver": "file", "filename": str(overlay)}
    return json.dumps({"driver": "qcow2", "node-name": name, "file": file})


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


def _net(spec: BootSpec, channels: Channels) -> list[str]:
    if spec.net is Net.NONE:
        return []
    device = f"virtio-net-pci,id=net0-pci,netdev=net0,romfile={_virtio(spec)}"
    log = ["-object", "filter-replay,id=net0-log,netdev=net0"]
    recorded = [] if channels.execution_log is None else log
    return ["-netdev", "user,id=net0", "-device", device, *recorded]


def _virtio(spec: BootSpec) -> str:
    platform = ",iommu_platform=on,disable-legacy=on" if spec.iommu_platform else ""
    # A queue notification may end in a host fault.  Without ioeventfd the vCPU handles it, so that
    # the fault has an instruction to blame.
    judged = spec.restricted and spec.on_host_access is not AccessPolicy.SHARE
    return platform + (",ioeventfd=off" if judged else "")


def _value(path: Path) -> str:
    """Write a path so that QEMU does not end the value at a comma in it."""
    return str(path).replace(",", ",,")


def _plain(path: Path) -> Path:
    """Write a relative path that has a colon so that QEMU does not take it for a protocol."""
    return path.absolute() if ":" in str(path) else path


def _options(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
