# SPDX-License-Identifier: GPL-2.0-or-later
"""Of which architecture the system on a disk is, as its partition table tells.

UAPI.2 ("Discoverable Partitions") has a type of root partition for each architecture; the table is
that of the UEFI specification, 5.3.  A disk without such a partition tells nothing.
"""

import struct
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cvmlab.base.errors import ConfigError
from cvmlab.debian.apt_call import run
from cvmlab.machine.disk_format import DiskFormat
from cvmlab.machine.spec import Disk
from cvmlab.profiles.architecture import ARCHITECTURES, Architecture


_SECTOR: Final = 512
_SECTORS: Final = 34  # the table and the 128 entries that everybody makes
_HEADER: Final = struct.Struct("<8s64xQII")  # signature; first sector, number and size of entries
_SIGNATURE: Final = b"EFI PART"
_GUID_BYTES: Final = 16
_DEADLINE_S: Final = 60


def partition_types(head: bytes) -> tuple[str, ...]:
    """Return the types in the table at the begin of a disk; none if it has no table."""
    if len(head) < 2 * _SECTOR:
        return ()
    signature, first, number, size = _HEADER.unpack_from(head, _SECTOR)
    if signature != _SIGNATURE or size < _GUID_BYTES:
        return ()
    start = first * _SECTOR
    end = min(start + number * size, len(head))  # number may be anything up to 2**32
    entries = (head[at : at + _GUID_BYTES] for at in range(start, end, size))
    found = (uuid.UUID(bytes_le=entry) for entry in entries if len(entry) == _GUID_BYTES)
    return tuple(str(guid).upper() for guid in found if guid.int)


def architectures_on(head: bytes) -> tuple[str, ...]:
    """Return the names of the architectures that have a root partition there."""
    types = partition_types(head)
    return tuple(row.name for row in ARCHITECTURES if row.efi.root_partition.upper() in types)


def require_architecture(
    disk: Disk, architecture: Architecture, qemu_img: Callable[[], Path]
) -> None:
    """Raise ConfigError if the system on *disk* is of another architecture, and says so.

    *qemu_img* returns the program that reads images; a raw one needs none.
    """
    there = architectures_on(_head(disk, qemu_img))
    if there and architecture.name not in there:
        raise ConfigError(
            f"{disk.path} is a disk for {there[0]}, and this guest is of {architecture.name}",
            hint=f"--arch {there[0]}, or a disk for {architecture.name}",
        )


def _head(disk: Disk, qemu_img: Callable[[], Path]) -> bytes:
    if disk.format is DiskFormat.RAW:
        with disk.path.open("rb") as file:
            return file.read(_SECTORS * _SECTOR)
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder) / "head"
        words = (f"bs={_SECTOR}", f"count={_SECTORS}", f"if={disk.path.absolute()}", f"of={head}")
        argv = [str(qemu_img()), "dd", "-f", str(disk.format), "-O", "raw", *words]
        status, _, _ = run(argv, what="qemu-img", deadline_s=_DEADLINE_S)
        return b"" if status else head.read_bytes()  # QEMU will say what is wrong with it
