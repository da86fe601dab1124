# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a file can be the firmware of a machine, as QEMU's ``-bios`` takes it.

A distribution also splits the flash image of UEFI firmware in two, the code and its variables.  One
half alone starts, and faults where the other one should be.  A half begins with the header of a
firmware volume (UEFI Platform Initialization, volume 3, EFI_FIRMWARE_VOLUME_HEADER).
"""

from pathlib import Path
from typing import Final
from uuid import UUID

from cvmlab.base.errors import ConfigError
from cvmlab.machine.disk_format import DiskFormat, Packed, found_in


_UNIT_BYTES: Final = 64 << 10  # QEMU wants -bios to be a multiple of it
_HEADER_BYTES: Final = 44
_SIGNATURE: Final = b"_FVH"
_OF_FILES: Final = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")  # EFI_FIRMWARE_FILE_SYSTEM2_GUID
_OF_VARIABLES: Final = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")  # EFI_SYSTEM_NV_DATA_FV_GUID


def require_firmware(path: Path) -> None:
    """Raise ConfigError for a file that QEMU's ``-bios`` cannot be."""
    kind, size = found_in(path), path.stat().st_size
    if isinstance(kind, Packed):
        raise ConfigError(f"--firmware {path} is compressed", hint=f"{kind} {path}")
    if kind is not DiskFormat.RAW:
        raise ConfigError(
            f"--firmware {path} is a {kind} file, and firmware is a plain image",
            hint=f"qemu-img convert -O raw {path} firmware.fd",
        )
    if not size or size % _UNIT_BYTES:
        raise ConfigError(
            f"--firmware {path} is no firmware: its size, {size} bytes, is no multiple of 64K",
            hint="give seabios, ovmf, or an image such as OVMF.fd",
        )
    with path.open("rb") as file:
        half = _half(file.read(_HEADER_BYTES), size)
    if half is not None:
        has, lacks, name = half
        raise ConfigError(
            f"--firmware {path} is half a flash image: it has {has}, and not {lacks} ({name})",
            hint=f"give the whole image, such as OVMF.fd; or join them: cat VARS CODE > {path.stem}-whole.fd",
        )


def _half(header: bytes, size: int) -> tuple[str, str, str] | None:
    """Return what a half has, what it lacks, and what the other half is called; None: it is whole."""
    if header[40:44] != _SIGNATURE:
        return None
    volume = UUID(bytes_le=header[16:32])
    if volume == _OF_VARIABLES and int.from_bytes(header[32:40], "little") >= size:
        return "the variables", "the code", "OVMF_CODE*.fd"
    # Whole images have a power of two, and those without variables, too.
    if volume == _OF_FILES and size & (size - 1):
        return "the code", "the variables", "OVMF_VARS*.fd"
    return None
