# SPDX-License-Identifier: GPL-2.0-or-later
"""What the firmware starts from a disk image: Debian's GRUB, or a unified kernel image (UKI).

Both come from Debian's packages, unpacked and not installed.  GRUB is the binary that Debian signs,
without the signature; a UKI is made by Debian's ukify.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cvmlab.packages import fetch, unpack
from cvmlab.recipes import BootLoader
from cvmlab.steps import Steps


_SUITE = "trixie"  # the first with ukify; the image may be of another
_GRUB_PACKAGE = "grub-efi-amd64-unsigned"
_GRUB = "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"
_UKI_PACKAGES = ("systemd-boot-efi", "systemd-ukify", "python3-pefile")
_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_PYTHON_MODULES = "usr/lib/python3/dist-packages"
_UKIFY_DEADLINE_S = 120.0
# Where firmware looks on a disk that it has no boot entry for.
_DEFAULT_PROGRAM = "EFI/BOOT/BOOTX64.EFI"


@dataclass(frozen=True, slots=True)
class System:
    """What is to be started: files outside of the image, and the root file system in it."""

    kernel: Path
    initrd: Path
    os_release: Path
    command_line: str
    root_uuid: str


def esp_files(boot: BootLoader, system: System, folder: Path, steps: Steps) -> Mapping[str, Path]:
    """Return what goes on the EFI system partition, by its path there; *folder* takes new files."""
    match boot:
        case BootLoader.GRUB:
            config = folder / "grub.cfg"
            config.write_text(
                f"search.fs_uuid {system.root_uuid} root\n"
                "set prefix=($root)/boot/grub\n"
                "configfile $prefix/grub.cfg\n"
            )
            program = unpack(fetch(_GRUB_PACKAGE, _SUITE)) / _GRUB
            return {_DEFAULT_PROGRAM: program, "EFI/debian/grub.cfg": config}
        case BootLoader.UKI:
            return {_DEFAULT_PROGRAM: _uki(system, folder / "uki.efi", steps)}


def root_files(boot: BootLoader, system: System) -> Mapping[str, str]:
    """Return what the boot loader needs on the root file system."""
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
        f"--stub={unpacked / _STUB}",
        f"--output={target}",
    ]
    # fmt: on
    steps.run(command, what="ukify", deadline_s=_UKIFY_DEADLINE_S)
    return target
