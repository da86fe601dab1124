# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a guest that the firmware boots from a disk: one of our recipes, or a user's own."""

from functools import partial
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.base.progress import Style
from cvmlab.boot.kernel_code import KernelCode
from cvmlab.boot.words import GuestWords
from cvmlab.images import disk_image, nocloud_seed
from cvmlab.images.guest_files import GuestFiles
from cvmlab.images.shared_folder import folder_image
from cvmlab.images.symbols import load
from cvmlab.machine.spec import SHARE_NAME, Disk
from cvmlab.profiles.architecture import Architecture


def disk_guest(guest: GuestWords, architecture: Architecture, style: Style) -> GuestFiles:
    """Return the files of *guest*, with a seed if it is told anything."""
    late_disks = _late_disks(guest, architecture)
    if guest.disk_recipe is None:
        if guest.symbols is None:
            return GuestFiles(late_disks=late_disks)
        return GuestFiles(
            late_disks=late_disks,
            load_symbols=partial(load, guest.symbols),
            load_code=KernelCode(guest.symbols).code,
        )
    built = disk_image.build(str(guest.image), guest.disk_recipe, style=style)
    kernel = KernelCode(built.kernel)
    return GuestFiles(
        disks=(Disk(built.disk, guest.disk_interface),),
        late_disks=late_disks,
        release=built.release,
        fixed_addresses=True,  # our boot loaders say nokaslr
        load_symbols=partial(kernel.symbols, guest.symbols),
        load_code=kernel.code,
    )


def shared_disks(folder: Path | None) -> tuple[Disk, ...]:
    """Return the disk by which a guest without 9p gets *folder*."""
    return () if folder is None else (Disk(folder_image(folder), serial=SHARE_NAME),)


def _late_disks(guest: GuestWords, architecture: Architecture) -> tuple[Disk, ...]:
    data = _user_data(guest, architecture.agent)
    seeds = () if data is None else (Disk(nocloud_seed.image(data), guest.disk_interface),)
    return (*seeds, *shared_disks(guest.share))


def _user_data(guest: GuestWords, port: str) -> bytes | None:
    users = _users_data(guest.user_data)
    # An image of ours that is told nothing, nor waited for, shows that it boots, and ends.
    is_test = guest.disk_recipe is not None and guest.is_left_alone
    ends = guest.exec is not None or (is_test and users is None)
    if not ends and guest.share is None:
        return users
    is_shared = guest.share is not None
    ours = nocloud_seed.script(guest.exec, power_off=ends, share=is_shared, port=port)
    return nocloud_seed.user_data(ours, users)


def _users_data(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--user-data: cannot read {path}: {error.strerror}") from error
