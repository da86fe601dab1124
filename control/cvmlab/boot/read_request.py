# SPDX-License-Identifier: GPL-2.0-or-later
"""From a request to its words: every option is read and checked; nothing is fetched or built."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.boot.disk import default_firmware, require_bootable
from cvmlab.boot.guest_architecture import architecture_of
from cvmlab.boot.request import Request
from cvmlab.boot.words import GuestWords, JudgeWords, Measured, Words
from cvmlab.images.boot_files import NO_INITRD
from cvmlab.images.kernel_tree import kernel_file
from cvmlab.images.recipes import DiskRecipe, load
from cvmlab.images.symbols import require_symbols
from cvmlab.machine.firmware_image import require_firmware
from cvmlab.machine.option import Form, Option, ValueKind
from cvmlab.machine.option_rows import OPTIONS, having
from cvmlab.machine.spec import BootSpec, Disk, DiskInterface
from cvmlab.memory.measures import MEASURES
from cvmlab.profiles.profile import Profile, Profiles
from cvmlab.profiles.profile_rows import DEFAULT_PROFILE, PROFILES
from cvmlab.results.baseline_file import load as load_baselines
from cvmlab.results.baselines import key
from cvmlab.results.budgets import Budget
from cvmlab.vm.launch import Setting
from cvmlab.vm.vm import WAIT_TIMEOUT_S


_ATTENDED_TIMEOUT_S = 24 * 3600.0  # a person sits there
_BOOTABLE = ("image", "kernel", "disk")
# What the guest's files decide, which come later.
_OF_THE_GUEST = ("kernel", "initrd", "append", "share")


def read_request(request: Request, profiles: Profiles = PROFILES) -> Words:
    """Return what *request* says; raise ConfigError for the first thing that is wrong.

    *profiles* are the rows that ``--coco`` may name.
    """
    coco = choose("--coco", str(request.given.get("coco", DEFAULT_PROFILE)), profiles.names)
    request = _with_an_image(request, profiles[coco])
    said = {option.name: option.read(request.given[option.name]) for option in _given(request)}
    said["coco"] = coco
    _require_one_source(said)
    _require_one_qemu(said)
    if "kernel" in said:
        said["kernel"] = kernel_file(said["kernel"], said.get("arch"))
    _require_paths(said)
    said["arch"] = architecture_of(said, profiles[coco])
    if "symbols" in said:
        require_symbols(said["symbols"])
    if isinstance(said.get("firmware"), Path):
        require_firmware(said["firmware"])
    guest = _guest(said)
    machine = _machine(said, guest, profiles)
    machine.validate()
    require_bootable(guest, machine)
    setting = Setting(**_fields(said, Form.SETTING))
    return Words(
        title=request.title,
        variant=request.variant,
        guest=guest,
        machine=machine,
        setting=setting,
        judge=_judge(said, machine, request),
        paused="gdb" in said or "paused" in said,
    )


def _with_an_image(request: Request, profile: Profile) -> Request:
    """Name the profile's image if nothing is named that could be booted."""
    given = request.given
    architecture = str(getattr(given.get("arch"), "name", given.get("arch")))
    is_another = "arch" in given and architecture not in profile.architectures
    if profile.image is None or is_another or not given.keys().isdisjoint(_BOOTABLE):
        return request
    return Request({**given, "image": profile.image})


def _given(request: Request) -> Iterator[Option]:
    """Yield the options that were given, but for the profile: its words are those of the rows."""
    return (row for row in OPTIONS if row.name in request.given and row.name != "coco")


def _require_one_source(said: Mapping[str, Any]) -> None:
    if "image" in said and "kernel" in said:
        raise ConfigError("an image and --kernel cannot be combined", hint="leave one of them out")


def _require_one_qemu(said: Mapping[str, Any]) -> None:
    if "qemu" in said and "qemu_version" in said:
        raise ConfigError("--qemu and --qemu-version cannot be combined", hint="leave one out")


def _require_paths(said: Mapping[str, Any]) -> None:
    for label, path, kind in _paths(said):
        try:
            if kind is ValueKind.FOLDER:
                os.scandir(path).close()
            else:
                _require_file(label, path)
        except OSError as error:
            what = "folder" if kind is ValueKind.FOLDER else "file"
            raise ConfigError(
                f"{label}: cannot read {path}: {error.strerror}",
                hint=f"{label} takes the path of a {what}",
            ) from error


def _require_file(label: str, path: Path) -> None:
    """Raise OSError or ConfigError unless it can be read to its end, now and again later."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(
            f"{label}: {path} is not a file but {_kind_of(mode)}",
            hint=f"{label} takes the path of a file; copy what it gives into one",
        )
    path.open("rb").close()


def _kind_of(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def _paths(said: Mapping[str, Any]) -> Iterator[tuple[str, Path, ValueKind]]:
    """Yield what has to be there: label, path, and what it has to be."""
    kinds = (ValueKind.FILE, ValueKind.FOLDER, ValueKind.DISK, ValueKind.FIRMWARE)
    for option in OPTIONS:
        # A missing baseline has a better hint of its own.
        if option.kind not in kinds or option.name not in said or option.name == "baseline":
            continue
        value = said[option.name]
        for item in value if option.repeatable else (value,):
            path = item.path if isinstance(item, Disk) else item
            if isinstance(path, Path) and not (option.name == "initrd" and path == NO_INITRD):
                yield option.label, path, option.kind


def _guest(said: Mapping[str, Any]) -> GuestWords:
    found = load().find(said["image"]) if "image" in said else None
    recipe = found if isinstance(found, DiskRecipe) else None
    is_users_disk = "disk" in said and "image" not in said and "kernel" not in said
    is_watched = "console" in said or "gdb" in said or "expect" in said
    return GuestWords(
        image=said.get("image"),
        disk_recipe=recipe,
        boots_from_disk=recipe is not None or is_users_disk,
        kernel=said.get("kernel"),
        initrd=said.get("initrd"),
        append=said.get("append"),
        exec=said.get("exec"),
        share=said.get("share"),
        user_data=said.get("user_data"),
        symbols=said.get("symbols"),
        disk_interface=said.get("disk_interface", DiskInterface.VIRTIO_BLK),
        console="console" in said,
        is_left_alone=not is_watched,
    )


def _machine(said: Mapping[str, Any], guest: GuestWords, profiles: Profiles) -> BootSpec:
    known = _fields({name: said[name] for name in said if name not in _OF_THE_GUEST}, Form.SPEC)
    machine = BootSpec(**known, profiles=profiles)
    return replace(
        machine,
        disks=tuple(
            replace(disk, interface=guest.disk_interface) if "disk_interface" in said else disk
            for disk in machine.disks
        ),
        firmware=known.get("firmware") or default_firmware(guest, machine),
        debuggable=machine.debuggable or machine.gdb is not None,
    )


def _fields(said: Mapping[str, Any], form: Form) -> dict[str, Any]:
    return {option.target: said[option.name] for option in having(form) if option.name in said}


def _judge(said: Mapping[str, Any], machine: BootSpec, request: Request) -> JudgeWords:
    is_attended = "gdb" in said or "console" in said
    return JudgeWords(
        expect=said.get("expect"),
        timeout_s=said.get("timeout", _ATTENDED_TIMEOUT_S if is_attended else WAIT_TIMEOUT_S),
        budgets=tuple(
            Budget.parse(option, text)
            for option in MEASURES.budgets
            for text in said.get(option.parameter, ())
        ),
        baseline=_measured(said.get("baseline"), machine, request),
    )


def _measured(file: Path | None, machine: BootSpec, request: Request) -> Measured | None:
    if file is None:
        return None
    firmware = str(machine.firmware)
    name = key(
        request.title, machine.coco, firmware, machine.cpus, machine.memory_bytes, request.variant
    )
    known = load_baselines(file)
    return Measured(known.entry(name, str(file)), known.tolerance)
