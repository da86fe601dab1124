# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware and option ROMs, unpacked from Debian's packages and never installed.

QEMU is built without its blobs, because Debian's are built from source and get security updates;
`cvmlab build --force` fetches these.
"""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab.base.errors import ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.base.resources import bundle_dir
from cvmlab.debian import packages
from cvmlab.debian.apt_call import run
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture


SUITE = "trixie"
_LARGE_BYTES = 32 << 20
_DIG_DEADLINE_S = 60


def rom_dirs(architecture: Architecture = DEFAULT_ARCHITECTURE) -> list[Path]:
    """Return the folders for QEMU's -L: CVMLAB_ROM_DIRS, the bundled one, or Debian's."""
    named = os.environ.get("CVMLAB_ROM_DIRS")
    if named:
        return [Path(folder) for folder in named.split(":") if folder]
    carried = bundle_dir() if architecture is DEFAULT_ARCHITECTURE else None
    if carried is not None:
        return [carried / "share"]
    root = link(architecture) if is_complete(architecture) else update(architecture)
    return list(dict.fromkeys((root / rom.file).parent for rom in architecture.roms))


def ovmf(architecture: Architecture = DEFAULT_ARCHITECTURE) -> Path:
    """Return OVMF, code and variables in one file."""
    name = str(architecture.bios_of("ovmf"))
    for folder in rom_dirs(architecture):
        if (folder / name).is_file():
            return folder / name
    raise ImageError(
        f"there is no {name} in CVMLAB_ROM_DIRS", hint="unset it, or add OVMF's folder to it"
    )


def is_complete(architecture: Architecture = DEFAULT_ARCHITECTURE) -> bool:
    """Return whether every package that this version of cvmlab uses has been fetched."""
    return all((link(architecture) / rom.file).is_file() for rom in architecture.roms)


def package_names(architecture: Architecture = DEFAULT_ARCHITECTURE) -> tuple[str, ...]:
    """Return the Debian packages that firmware and ROMs come from."""
    return tuple(rom.package for rom in architecture.roms)


def link(architecture: Architecture = DEFAULT_ARCHITECTURE) -> Path:
    """Return the link to the firmware in use; it may not exist."""
    of_others = "" if architecture is DEFAULT_ARCHITECTURE else f"-{architecture.name}"
    return cache_dir() / "firmware" / f"{SUITE}{of_others}"


def update(architecture: Architecture = DEFAULT_ARCHITECTURE) -> Path:
    """Fetch the packages and use their contents from now on; return the link to them.

    Raise ImageError.
    """
    names, place = package_names(architecture), link(architecture)
    unpacked = packages.unpack(*(packages.fetch(name, SUITE) for name in names))
    give_back_zeros(unpacked)
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent) as folder:
        new = Path(folder, "link")
        new.symlink_to(unpacked)
        new.replace(place)
    return place


def give_back_zeros(folder: Path) -> None:
    """Free the blocks of large files that have zeros only, as flash images of some 60 MiB do.

    Where that is not possible, they stay.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= _LARGE_BYTES:
            dig = ["fallocate", "--dig-holes", str(path)]
            with suppress(ImageError):
                run(dig, what=dig[0], deadline_s=_DIG_DEADLINE_S)
