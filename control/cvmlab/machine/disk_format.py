# SPDX-License-Identifier: GPL-2.0-or-later
"""The format of a disk image by its content, whatever its name.

A file in a format that is not recognised is raw: the firmware then finds no boot sector and nobody
learns why.  Magic numbers are those of QEMU's block/qcow2.c, vmdk.c, vdi.c, vhdx.c and vpc.c, and of
each compression's own specification.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

from cvmlab.base.errors import ConfigError


class DiskFormat(StrEnum):
    """The formats that our QEMU opens, by its names for them."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"
    VHD = "vpc"


class Packed(StrEnum):
    """Compressions and archives, by the command that unpacks them."""

    GZIP = "gzip -dk"
    XZ = "xz -dk"
    ZSTD = "zstd -dk"
    BZIP2 = "bzip2 -dk"
    LZ4 = "lz4 -dk"
    ZIP = "unzip"
    SEVEN = "7z x"


_MAGICS: Final[tuple[tuple[int, bytes, DiskFormat | Packed], ...]] = (
    (0, b"QFI\xfb", DiskFormat.QCOW2),
    (0, b"KDMV", DiskFormat.VMDK),
    (0, b"COWD", DiskFormat.VMDK),
    (0, b"# Disk DescriptorFile", DiskFormat.VMDK),
    (0, b"vhdxfile", DiskFormat.VHDX),
    (0, b"conectix", DiskFormat.VHD),  # dynamic: a copy of the footer
    (0x40, b"\x7f\x10\xda\xbe", DiskFormat.VDI),
    (0, b"\x1f\x8b\x08", Packed.GZIP),
    (0, b"\xfd7zXZ\0", Packed.XZ),
    (0, b"\x28\xb5\x2f\xfd", Packed.ZSTD),
    (0, b"BZh", Packed.BZIP2),
    (0, b"\x04\x22\x4d\x18", Packed.LZ4),
    (0, b"PK\x03\x04", Packed.ZIP),
    (0, b"7z\xbc\xaf\x27\x1c", Packed.SEVEN),
)
_HEAD_BYTES = 0x50
_VHD_FOOTER = (512, b"conectix")  # of a fixed size: only at the end


def found_in(path: Path) -> DiskFormat | Packed:
    """Return what is in a file.  One that cannot be read counts as raw: another check names it."""
    try:
        if not path.is_file():
            return DiskFormat.RAW
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            at, magic = _VHD_FOOTER
            file.seek(max(0, file.seek(0, 2) - at))
            foot = file.read(len(magic))
    except OSError:
        return DiskFormat.RAW
    if foot == magic:
        return DiskFormat.VHD
    found = (what for place, mark, what in _MAGICS if head[place:].startswith(mark))
    return next(found, DiskFormat.RAW)


def disk_format(path: Path) -> DiskFormat:
    """Return the format of a disk image; raise ConfigError if it is compressed."""
    found = found_in(path)
    if isinstance(found, Packed):
        raise ConfigError(
            f"the disk {path} is compressed, and a guest could not read it",
            hint=f"unpack it first: {found} {path}",
        )
    return found
