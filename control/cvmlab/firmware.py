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
from cvmlab.resources import bundle_dir


SUITE = "trixie"
# Package: a file in it that is used.  SeaBIOS; linuxboot, multiboot, pvh and vapic ROMs; network
# boot ROMs, without which QEMU refuses a network card; the generic OVMF, for TDX and SEV too.
_PACKAGES = {
    "seabios": "usr/share/seabios/bios-256k.bin",
    "qemu-system-data": "usr/share/qemu/linuxboot_dma.bin",
    "ipxe-qemu": "usr/share/qemu/efi-virtio.rom",
    "ovmf": "usr/share/ovmf/OVMF.fd",
}
_ROM_FOLDERS = ("usr/share/seabios", "usr/share/qemu", "usr/share/ovmf")


def rom_dirs() -> list[Path]:
    """Return the folders to give QEMU with -L: CVMLAB_ROM_DIRS, this package's own, or Debian's."""
    named = os.environ.get("CVMLAB_ROM_DIRS")
    if named:
        return [Path(folder) for folder in named.split(":") if folder]
    carried = bundle_dir()
    if carried is not None:
        return [carried / "share"]
    root = link() if is_complete() else update()
    return [root / folder for folder in _ROM_FOLDERS]


def ovmf() -> Path:
    """Return OVMF, code and variables in one file."""
    for folder in rom_dirs():
        if (folder / "OVMF.fd").is_file():
            return folder / "OVMF.fd"
    raise ImageError(
        "there is no OVMF.fd in CVMLAB_ROM_DIRS", hint="unset it, or add OVMF's folder to it"
    )


def is_complete() -> bool:
    """Tell whether every package is there that this version of cvmlab uses."""
    return all((link() / file).is_file() for file in _PACKAGES.values())


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
