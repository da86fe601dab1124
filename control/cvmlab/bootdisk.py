# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that the firmware boots from a disk: one of our recipes, or a user's own image."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from cvmlab import diskimage, seed
from cvmlab.bootrequest import Request
from cvmlab.bootspec import (
    SHARE_NAME,
    AccessPolicy,
    BootSpec,
    Disk,
    DiskInterface,
    Firmware,
)
from cvmlab.errors import ConfigError
from cvmlab.guestfiles import Guest
from cvmlab.guestobject import GUEST_OBJECTS
from cvmlab.kernel_image import extract_vmlinux
from cvmlab.progress import Style
from cvmlab.recipes import DiskRecipe
from cvmlab.recipes import load as load_recipes
from cvmlab.share import folder_image
from cvmlab.states import Layout
from cvmlab.symbols import Symbols, from_elf, load


_CLOUD_INIT = "cloud-init"


def boots_from_disk(request: Request) -> bool:
    """Tell whether the firmware is to find the kernel on a disk."""
    is_users = bool(request.disks) and request.image is None and request.kernel is None
    return is_users or _recipe(request) is not None


def default_firmware(request: Request, coco: str) -> Firmware:
    """Return the firmware that can boot what is asked for, where none is named."""
    is_ours = _recipe(request) is not None
    needs_ovmf = is_ours or (boots_from_disk(request) and coco in GUEST_OBJECTS)
    return Firmware.OVMF if needs_ovmf else Firmware.SEABIOS


def require_bootable(request: Request, spec: BootSpec) -> None:
    """Raise ConfigError if the firmware could not read the disk that it has to boot from."""
    if not boots_from_disk(request):
        return
    for option, given in (("--append", request.append), ("--initrd", request.initrd)):
        if given is not None:
            raise ConfigError(
                f"{option} cannot reach a guest that boots from its own disk",
                hint="add --kernel, or an image that is no disk",
            )
    if spec.firmware is Firmware.SEABIOS and _recipe(request) is not None:
        raise ConfigError(f"{request.image} boots by EFI only", hint="--firmware ovmf")
    if spec.firmware is Firmware.SEABIOS and spec.coco in GUEST_OBJECTS:
        raise ConfigError(
            f"SeaBIOS shares no memory with a disk, so under {spec.coco} it cannot boot from one",
            hint="--firmware ovmf",
        )
    _require_access(spec)


def _require_access(spec: BootSpec) -> None:
    """The firmware of a guest that knows nothing shares nothing, so the policy has to."""
    hopeless = (AccessPolicy.DENY, AccessPolicy.ZERO)
    if not spec.restricted or spec.coco in GUEST_OBJECTS or spec.on_host_access not in hopeless:
        return
    can_share = spec.memory_layout is Layout.IN_PLACE
    raise ConfigError(
        f"under {spec.coco} with --on-host-access {spec.on_host_access} no disk can be read, "
        "and the guest is to boot from one",
        hint="--on-host-access share" if can_share else "--coco off, tdx, sev-snp or generic",
    )


def disk_guest(request: Request, style: Style) -> Guest:
    """Return the guest on a disk, with a seed if anything is to be told to it."""
    recipe = _recipe(request)
    if recipe is None:
        guest = Guest(late_disks=_late_disks(request, recipe))
        if request.symbols is None:
            return guest
        return replace(guest, load_symbols=partial(load, request.symbols))
    late_disks = _late_disks(request, recipe)  # what is wrong in it comes before a long build
    built = diskimage.build(str(request.image), recipe, style=style)
    return Guest(
        disks=(Disk(built.disk, _interface(request)),),
        late_disks=late_disks,
        release=built.release,
        fixed_addresses=True,  # our boot loaders say nokaslr
        load_symbols=partial(_symbols, request.symbols, built.kernel),
    )


def _recipe(request: Request) -> DiskRecipe | None:
    if request.image is None:
        return None
    found = load_recipes().find(request.image)
    return found if isinstance(found, DiskRecipe) else None


def _late_disks(request: Request, recipe: DiskRecipe | None) -> tuple[Disk, ...]:
    data = _user_data(request, recipe)
    seeds = () if data is None else (Disk(seed.image(data), _interface(request)),)
    return (*seeds, *shared_disks(request.share))


def shared_disks(folder: Path | None) -> tuple[Disk, ...]:
    """Return the disk by which a guest without 9p gets *folder*."""
    return () if folder is None else (Disk(folder_image(folder), serial=SHARE_NAME),)


def _user_data(request: Request, recipe: DiskRecipe | None) -> bytes | None:
    users = _users_data(request.user_data)
    if users is not None and recipe is not None and _CLOUD_INIT not in recipe.packages:
        raise ConfigError(
            f"--user-data: {request.image} has no cloud-init", hint="use debian-cloud"
        )
    # An image of ours that is told nothing, nor waited for, shows that it boots, and ends.
    is_attended = request.console or request.gdb
    is_test = recipe is not None and request.expect is None and not is_attended
    ends = request.exec is not None or (is_test and users is None)
    if not ends and request.share is None:
        return users
    return seed.user_data(seed.script(request.exec, power_off=ends), users)


def _users_data(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--user-data: cannot read {path}: {error.strerror}",
            hint="--user-data takes the path of a file for cloud-init",
        ) from error


def _interface(request: Request) -> DiskInterface:
    return DiskInterface(request.disk_interface or DiskInterface.VIRTIO_BLK)


def _symbols(given: Path | None, kernel: Path) -> Symbols:
    return load(given) if given is not None else from_elf(extract_vmlinux(kernel))
