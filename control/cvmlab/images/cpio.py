# SPDX-License-Identifier: GPL-2.0-or-later
"""Write cpio archives for the kernel (format ``newc``), the same bytes for the same input.

The ``cpio`` program is not used: it copies times and inode numbers from the file system, needs root
for device nodes, and may not be installed.  The format is described in the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self

from cvmlab.base.errors import InvariantError


_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4
_BLOCK = 512  # of cpio and bsdtar, which warn about an archive that ends inside a block
_MAX_SIZE = 0xFFFF_FFFF
_MAX_NAME = 4095  # the kernel skips an entry whose name is longer than PATH_MAX


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """A file system object; ``mode`` has the type bits of stat(2), ``data`` a symlink's target.

    ``path`` is relative and normal: no leading slash, no ``.``, no ``..``.
    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)  # major, minor

    def __post_init__(self) -> None:
        normal = str(PurePosixPath(self.path))
        if normal != self.path or self.path.startswith("/") or ".." in self.path.split("/"):
            raise InvariantError(f"{self.path!r} is no name for an archive entry")
        if self.path in (".", _TRAILER) or "\0" in self.path:
            raise InvariantError(f"{self.path!r} is no name for an archive entry")
        if len(os.fsencode(self.path)) > _MAX_NAME or len(self.data) > _MAX_SIZE:
            raise InvariantError(f"{self.path[:64]!r} is too large for a cpio archive")

    @classmethod
    def file(cls, path: str, data: bytes, permissions: int = 0o644) -> Self:
        return cls(path, stat.S_IFREG | permissions, data)

    @classmethod
    def directory(cls, path: str, permissions: int = 0o755) -> Self:
        return cls(path, stat.S_IFDIR | permissions)

    @classmethod
    def symlink(cls, path: str, target: str) -> Self:
        return cls(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    @classmethod
    def character_device(
        cls, path: str, major: int, minor: int, *, permissions: int = 0o600
    ) -> Self:
        return cls(path, stat.S_IFCHR | permissions, b"", (major, minor))


def archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return an archive of *entries*, in any order, and of the directories they are in.

    Everything belongs to root and dates from 1970.  The length is a multiple of 512, so archives
    can be joined as they are.
    """
    ordered = _with_parents(entries)
    parts = [_record(entry, inode) for inode, entry in enumerate(ordered, start=1)]
    parts.append(_header(_TRAILER, mode=0, inode=0, size=0))
    return pad(b"".join(parts), _BLOCK)


def pad(data: bytes, alignment: int = _ALIGNMENT) -> bytes:
    """Return *data* with zeros up to a multiple of *alignment*; the kernel skips them."""
    return data + bytes(-len(data) % alignment)


def _with_parents(entries: Iterable[CpioEntry]) -> list[CpioEntry]:
    """Sort, so that a directory comes before what is in it, and add directories not named."""
    by_path: dict[str, CpioEntry] = {}
    for entry in entries:
        if by_path.setdefault(entry.path, entry) is not entry:
            raise InvariantError(f"two archive entries are named {entry.path!r}")
    for path in list(by_path):
        for parent in map(str, PurePosixPath(path).parents):
            if parent != ".":
                by_path.setdefault(parent, CpioEntry.directory(parent))
            if parent != "." and not stat.S_ISDIR(by_path[parent].mode):
                raise InvariantError(f"{parent!r} contains {path!r} but is not a directory")
    return sorted(by_path.values(), key=lambda entry: os.fsencode(entry.path))


def _record(entry: CpioEntry, inode: int) -> bytes:
    header = _header(
        entry.path, mode=entry.mode, inode=inode, size=len(entry.data), device=entry.device
    )
    return header + pad(entry.data)


def _header(
    path: str, *, mode: int, inode: int, size: int, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = os.fsencode(path) + b"\0"
    owner, group, modified, checksum = 0, 0, 0, 0
    links = (
        2 if stat.S_ISDIR(mode) else 1
    )  # for 2 or more links of a file, the kernel looks for hard links
    fields = (
        inode, mode, owner, group, links, modified, size,
        0, 0, *device, len(name), checksum,
    )  # fmt: skip
    return pad(_MAGIC + b"".join(b"%08x" % value for value in fields) + name)
