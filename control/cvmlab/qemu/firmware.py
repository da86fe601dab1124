# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware and option ROMs, unpacked from Debian's packages and never installed.

QEMU is built without its blobs, because Debian's are built from source and get security updates;
`cvmlab build --force` fetches these.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab.base.errors import ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.base.resources import bundle_dir
from cvmlab.debian import packages
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture


SUITE = "trixie"
_ROMS = tuple(rom for row in ARCHITECTURES for rom in row.roms)


def rom_dirs() -> list[Path]:
    """Return the folders for QEMU's -L: CVMLAB_ROM_DIRS, the bundled one, or Debian's."""
    named = os.environ.get("CVMLAB_ROM_DIRS")
    if named:
        return [Path(folder) for folder in named.split(":") if folder]
    carried = bundle_dir()
    if carried is not None:
        return [carried / "share"]
    root = link() if is_complete() else update()
    return list(dict.fromkeys((root / rom.file).parent for rom in _ROMS))


def ovmf(architecture: Architecture = DEFAULT_ARCHITECTURE) -> Path:
    """Return OVMF, code and variables in one file."""
    name = str(architecture.bios_of("ovmf"))
    for folder in rom_dirs():
        if (folder / name).is_file():
            return folder / name
    raise ImageError(
        f"there is no {name} in CVMLAB_ROM_DIRS", hint="unset it, or add OVMF's folder to it"
    )


def is_complete() -> bool:
    """Return whether every package that this version of cvmlab uses has been fetched."""
    return all((link() / rom.file).is_file() for rom in _ROMS)


def package_names() -> tuple[str, ...]:
    """Return the Debian packages that firmware and ROMs come from."""
    return tuple(rom.package for rom in _ROMS)


def link() -> Path:
    """Return the link to the firmware in use; it may not exist."""
    return cache_dir() / "firmware" / SUITE


def update() -> Path:
    """Fetch the packages and use their contents from now on; return the link to them.

    Raise ImageError.
    """
    unpacked = packages.unpack(*(packages.fetch(name, SUITE) for name in package_names()))
    link().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=link().parent) as folder:
        new = Path(folder, "link")
        new.symlink_to(unpacked)
        new.replace(link())
    return link()
