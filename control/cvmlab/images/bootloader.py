# SPDX-License-Identifier: GPL-2.0-or-later
"""The program that the firmware starts from a disk: Debian's GRUB, or a unified kernel image (UKI).

Both come from Debian's packages, unpacked and not installed.  GRUB is the binary that Debian signs,
without the signature; a UKI is made by Debian's ukify.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmlab.base.steps import Steps
from cvmlab.debian.packages import fetch, unpack
from cvmlab.images.recipes import BootLoader
from cvmlab.profiles.architecture import EfiBoot


_SUITE = "trixie"  # the first with ukify; the image may be of another
_UKI_PACKAGES = ("systemd-boot-efi", "systemd-ukify", "python3-pefile")
_PYTHON_MODULES = "usr/lib/python3/dist-packages"
_UKIFY_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class System:
    """The system to start: files outside of the image, and the root file system in it."""

    kernel: Path
    initrd: Path
    os_release: Path
    command_line: str
    root_uuid: str
    efi: EfiBoot


def esp_files(boot: BootLoader, system: System, folder: Path, steps: Steps) -> Mapping[str, Path]:
    """Return the files of the EFI system partition by their path there; new ones go to *folder*."""
    match boot:
        case BootLoader.GRUB:
            config = folder / "grub.cfg"
            config.write_text(
                f"search.fs_uuid {system.root_uuid} root\n"
                "set prefix=($root)/boot/grub\n"
                "configfile $prefix/grub.cfg\n"
            )
            program = unpack(fetch(system.efi.grub_package, _SUITE)) / system.efi.grub
            return {system.efi.default_program: program, "EFI/debian/grub.cfg": config}
        case BootLoader.UKI:
            return {system.efi.default_program: _uki(system, folder / "uki.efi", steps)}


def root_files(boot: BootLoader, system: System) -> Mapping[str, str]:
    """Return the boot loader's files on the root file system."""
    if boot is not BootLoader.GRUB:
        return {}
    return {
        "boot/grub/grub.cfg": f"linux /vmlinuz {system.command_line}\ninitrd /initrd.img\nboot\n"
    }


def _uki(system: System, target: Path, steps: Steps) -> Path:
    unpacked = unpack(*(fetch(name, _SUITE) for name in _UKI_PACKAGES))
    # fmt: off
    command: list[str | Path] = [
        "env", f"PYTHONPATH={unpacked / _PYTHON_MODULES}",
        sys.executable, unpacked / "usr/bin/ukify", "build",
        f"--linux={system.kernel}",
        f"--initrd={system.initrd}",
        f"--cmdline={system.command_line}",
        f"--os-release=@{system.os_release}",
        f"--stub={unpacked / system.efi.stub}",
        f"--output={target}",
    ]
    # fmt: on
    steps.run(command, what="ukify", deadline_s=_UKIFY_DEADLINE_S)
    return target
