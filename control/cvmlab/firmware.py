# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware and option ROMs, unpacked from Debian's packages and never installed.

QEMU is built without its blobs: Debian's are built from source and get security updates, which
`cvmlab build --force` takes.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab import packages
from cvmlab.errors import ImageError
from cvmlab.paths import cache_dir


SUITE = "trixie"
# SeaBIOS; linuxboot, multiboot, pvh and vapic ROMs; the generic OVMF, which serves TDX and SEV.
_PACKAGES = ("seabios", "qemu-system-data", "ovmf")
_ROM_FOLDERS = ("usr/share/seabios", "usr/share/qemu", "usr/share/ovmf")


def rom_dirs() -> list[Path]:
    """Return the folders to give QEMU with -L; CVMLAB_ROM_DIRS (colon-separated) overrides."""
    named = os.environ.get("CVMLAB_ROM_DIRS")
    if named:
        return [Path(folder) for folder in named.split(":") if folder]
    root = link() if link().is_dir() else update()
    return [root / folder for folder in _ROM_FOLDERS]


def ovmf() -> Path:
    """Return OVMF, code and variables in one file."""
    for folder in rom_dirs():
        if (folder / "OVMF.fd").is_file():
            return folder / "OVMF.fd"
    raise ImageError(
        "there is no OVMF.fd in CVMLAB_ROM_DIRS", hint="unset it, or add OVMF's folder to it"
    )


def link() -> Path:
    """Return the link to the firmware in use, whether there or not."""
    return cache_dir() / "firmware" / SUITE


def update() -> Path:
    """Fetch the packages and use what they contain from now on; return the link to it.

    Raise ImageError.
    """
    unpacked = packages.unpack(*(packages.fetch(name, SUITE) for name in _PACKAGES))
    link().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=link().parent) as folder:
        new = Path(folder, "link")
        new.symlink_to(unpacked)
        new.replace(link())
    return link()
