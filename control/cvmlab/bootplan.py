# SPDX-License-Identifier: GPL-2.0-or-later
"""From what was asked for on the command line to what will run: everything is checked here.

A plan is complete: to show it (``--dry-run``) and to run it need nothing else.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from cvmlab.baselinefile import load as load_baselines
from cvmlab.baselines import Entry, Tolerance, key
from cvmlab.bootdisk import default_firmware, require_bootable
from cvmlab.bootguest import guest_of
from cvmlab.bootrequest import Request
from cvmlab.bootspec import (
    PROFILE_OFF,
    AccessPolicy,
    BootSpec,
    Disk,
    DiskFormat,
    DiskInterface,
    EventLoss,
    Firmware,
    Net,
    PendingPolicy,
)
from cvmlab.budgets import Budget, Resource
from cvmlab.build import install, qemu_binary
from cvmlab.choices import choose
from cvmlab.errors import ConfigError
from cvmlab.firmware import rom_dirs
from cvmlab.guestfiles import Guest
from cvmlab.images import NO_INITRD
from cvmlab.kerneltree import kernel_file
from cvmlab.launch import Setting, locate_qemu
from cvmlab.machine import EXAMPLE_FDS, Channels, command_line
from cvmlab.packages import OnStep, silent
from cvmlab.progress import Style
from cvmlab.qemu_recipe import Flavour
from cvmlab.ranges import parse_size
from cvmlab.rundir import runs_dir
from cvmlab.share import require_folder
from cvmlab.states import profiles
from cvmlab.symbols import LazySymbols
from cvmlab.vm import WAIT_TIMEOUT_S, Vm


T = TypeVar("T", bound=StrEnum)

GDB_ADDRESS = "127.0.0.1:1234"
_ATTENDED_TIMEOUT_S = 24 * 3600.0  # a person sits there
_QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True, slots=True)
class Measured:
    """What an earlier boot like this one took, and how much more is no regression."""

    entry: Entry
    tolerance: Tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A boot that can start: what, where, until when, and how it is judged."""

    title: str
    spec: BootSpec
    setting: Setting
    keep: bool
    paused: bool
    attended: bool
    expect: str | None
    runs_command: bool
    timeout_s: float
    budgets: tuple[Budget, ...]
    baseline: "Measured | None"
    release: str | None
    own_qemu: bool  # the one that `cvmlab build` made, or CVMLAB_QEMU
    symbols: LazySymbols
    is_linux: bool  # and not an ELF guest, which may live anywhere
    fixed_addresses: bool  # the kernel runs where it was linked

    @property
    def argv(self) -> list[str]:
        """The QEMU command; descriptor numbers and run folder are those of no real run."""
        folder = self.setting.run_dir or runs_dir() / self.setting.name
        fds = EXAMPLE_FDS if self.spec.restricted else None
        qemu = locate_qemu(self.setting.qemu)
        return command_line(qemu, self.spec, Channels.example(folder), fds)


def _events(machine: BootSpec, budgets: Iterable[Budget], baseline: Measured | None) -> EventLoss:
    """What happened in a phase is known from events only: then none may be missing."""
    by_phase = baseline is not None or any(item.phase for item in budgets)
    return EventLoss.LOSSLESS if by_phase else machine.events


def plan(
    request: Request, *, build: bool = True, style: Style = Style.AUTO, on_step: OnStep = silent
) -> Plan:
    """Check everything and find all files; raise CvmError for the first thing that is wrong.

    *build*: make QEMU if it is missing, and show progress in *style*.
    """
    expect, budgets, timeout_s = _expect(request.expect), _budgets(request), _timeout(request)
    _require_one_source(request)
    request = replace(request, kernel=kernel_file(request.kernel))
    words = _words(request)
    _require_files(request, words.firmware)
    machine = _machine(request, words)
    baseline = _baseline(request, machine)
    machine.validate()  # before anything is fetched or built
    require_bootable(request, machine)
    qemu = _qemu(request, build=build, style=style)
    guest = guest_of(request, on_step, style)
    spec = _with_guest(replace(machine, events=_events(machine, budgets, baseline)), guest)
    spec.validate()
    setting = _setting(request, qemu)
    Vm(spec, setting=setting)  # starts nothing, but knows what a VM may be called
    return Plan(
        title=request.title,
        spec=spec,
        setting=setting,
        keep=request.keep or request.run_dir is not None,
        paused=request.gdb,
        attended=request.console,
        expect=expect,
        runs_command=request.exec is not None,
        timeout_s=timeout_s,
        budgets=budgets,
        baseline=baseline,
        release=guest.release,
        own_qemu=request.qemu is None,
        symbols=LazySymbols(guest.load_symbols),
        is_linux=guest.is_linux,
        fixed_addresses=guest.fixed_addresses,
    )


def _setting(request: Request, qemu: Path) -> Setting:
    return Setting(
        name=request.name or "vm",
        qemu=qemu,
        run_dir=request.run_dir,
        keep=True,  # until the verdict, which comes after the end of the VM
    )


def _with_guest(machine: BootSpec, guest: Guest) -> BootSpec:
    return replace(
        machine,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=guest.append,
        disks=(*guest.disks, *machine.disks, *guest.late_disks),
        share=guest.share,
        rom_dirs=tuple(rom_dirs()),
    )


def _qemu(request: Request, *, build: bool, style: Style) -> Path:
    if request.qemu is None and "CVMLAB_QEMU" not in os.environ and build:
        install(Flavour.PATCHED, style=style)
    return locate_qemu(request.qemu or qemu_binary(build=False))


def _expect(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(
            f"--expect {pattern!r} is not a regular expression: {error}",
            hint="a backslash before ( [ { . * + ? ^ $ | takes it literally",
        ) from error
    if pattern == "":
        raise ConfigError("--expect is empty", hint="give it text that the console will show")
    return pattern


def _budgets(request: Request) -> tuple[Budget, ...]:
    given = (
        (Resource.FAULTS, request.max_faults),
        (Resource.CONVERSIONS, request.max_conversions),
        (Resource.ACCEPTS, request.max_accepts),
    )
    return tuple(Budget.parse(resource, text) for resource, texts in given for text in texts)


def _baseline(request: Request, machine: BootSpec) -> Measured | None:
    if request.baseline is None:
        return None
    firmware, memory = str(machine.firmware), machine.memory_bytes
    name = key(request.title, machine.coco, firmware, machine.cpus, memory)
    known = load_baselines(request.baseline)
    return Measured(known.entry(name, str(request.baseline)), known.tolerance)


def _timeout(request: Request) -> float:
    if request.timeout_s is None:
        is_attended = request.gdb or request.console
        return _ATTENDED_TIMEOUT_S if is_attended else WAIT_TIMEOUT_S
    if not 0 < request.timeout_s < float("inf"):
        raise ConfigError(
            f"--timeout: {request.timeout_s:g} seconds is no time to wait",
            hint="give a number of seconds above 0",
        )
    return request.timeout_s


@dataclass(frozen=True, slots=True)
class _Words:
    """Options that are one of a few words, read."""

    coco: str
    firmware: Firmware | Path
    net: Net
    disk_interface: DiskInterface
    on_host_access: AccessPolicy
    on_pending: PendingPolicy


def _words(request: Request) -> _Words:
    default = BootSpec()
    coco = choose("--coco", request.coco or default.coco, [*profiles(), PROFILE_OFF])
    return _Words(
        coco=coco,
        firmware=_firmware(request.firmware, default_firmware(request, coco)),
        net=_member("--net", request.net, default.net),
        disk_interface=_member(
            "--disk-interface", request.disk_interface, DiskInterface.VIRTIO_BLK
        ),
        on_host_access=_member("--on-host-access", request.on_host_access, default.on_host_access),
        on_pending=_member("--on-pending", request.on_pending, default.pending),
    )


def _member(option: str, word: str | None, default: T) -> T:
    return default if word is None else type(default)(choose(option, word, type(default)))


def _firmware(word: str | None, default: Firmware | Path) -> Firmware | Path:
    if word is None:
        return default
    if "/" in word or Path(word).is_file():
        return Path(word)
    return Firmware(choose("--firmware", word, Firmware))


def _require_files(request: Request, firmware: Firmware | Path) -> None:
    given = {
        "--kernel": request.kernel,
        "--initrd": request.initrd if request.initrd != NO_INITRD else None,
        "--symbols": request.symbols,
        "--firmware": firmware if isinstance(firmware, Path) else None,
    }
    for option, path in [*given.items(), *(("--disk", path) for path in request.disks)]:
        if path is None:
            continue
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"{option}: cannot read {path}: {error.strerror}",
                hint=f"{option} takes the path of a file",
            ) from error
    if request.share is not None:
        require_folder(request.share)


def _require_one_source(request: Request) -> None:
    if request.image is not None and request.kernel is not None:
        raise ConfigError(
            "an image and --kernel: only one can be booted", hint="leave one of them out"
        )


def _machine(request: Request, words: _Words) -> BootSpec:
    default = BootSpec()
    return BootSpec(
        coco=words.coco,
        guest_options=request.coco_options,
        mapgpa=request.mapgpa,
        quotes=request.quotes,
        memory_bytes=(
            default.memory_bytes if request.memory is None else parse_size(request.memory)
        ),
        cpus=default.cpus if request.cpus is None else request.cpus,
        tb_cache_bytes=(
            default.tb_cache_bytes if request.tb_cache is None else parse_size(request.tb_cache)
        ),
        disks=tuple(_disk(path, words.disk_interface) for path in request.disks),
        net=words.net,
        firmware=words.firmware,
        on_host_access=words.on_host_access,
        pending=words.on_pending,
        gdb=f"tcp:{GDB_ADDRESS}" if request.gdb else None,
        debuggable=request.gdb,
    )


def _disk(path: Path, interface: DiskInterface) -> Disk:
    with path.open("rb") as file:
        is_qcow2 = file.read(len(_QCOW2_MAGIC)) == _QCOW2_MAGIC
    return Disk(path, interface, DiskFormat.QCOW2 if is_qcow2 else DiskFormat.RAW)
