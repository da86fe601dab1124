# SPDX-License-Identifier: GPL-2.0-or-later
"""The mount behind a descriptor, as far as memfd_restricted() checks it."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cvmlab.generations import syscalls


TMPFS_MAGIC = 0x01021994
_MOUNT_ROOT = 0x2000


@dataclass(frozen=True, slots=True)
class MountFacts:
    """One descriptor's mount.  Only mounts inside the kernel have the flag ``noexec_superblock``."""

    point: str
    is_root: bool = True
    whole: bool = True
    magic: int = TMPFS_MAGIC
    noexec_mount: bool = False
    noexec_superblock: bool = False
    read_only: bool = False
    options: frozenset[str] = frozenset()

    @property
    def huge(self) -> bool:
        return "huge=always" in self.options


class Mounts(Protocol):
    """The source of these facts: the host, or a table."""

    def facts(self, fd: int) -> MountFacts | None:
        """Describe the mount of *fd*; None if it is not an open descriptor."""


class HostMounts:
    """The mounts of this process."""

    def facts(self, fd: int) -> MountFacts | None:
        try:
            info = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        except OSError:
            return None
        (number,) = (line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:"))
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields[0] == number:
                return _parse(fd, fields)
        return MountFacts("", is_root=False, magic=file_system_magic(fd))


def _parse(fd: int, fields: list[str]) -> MountFacts:
    """Read a line of mountinfo: id parent dev root point options - type source superblock-options."""
    options, of_superblock = fields[5].split(","), fields[-1].split(",")
    return MountFacts(
        point=fields[4].encode().decode("unicode_escape"),
        is_root=_is_mount_root(fd),
        whole=fields[3] == "/",
        magic=file_system_magic(fd),
        noexec_mount="noexec" in options,
        noexec_superblock=False,
        read_only="ro" in options or "ro" in of_superblock,
        options=frozenset(of_superblock),
    )


def file_system_magic(fd: int) -> int:
    """Return f_type of fstatfs(); it works for O_PATH descriptors, too."""
    buffer = (ctypes.c_long * 32)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(fd, buffer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(buffer[0])


def _is_mount_root(fd: int) -> bool:
    return bool(syscalls.statx_attributes(fd) & _MOUNT_ROOT)
