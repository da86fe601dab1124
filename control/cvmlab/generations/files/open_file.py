# SPDX-License-Identifier: GPL-2.0-or-later
"""Open restricted files, and their descriptors, which dup(), fork() and SCM_RIGHTS share."""

from __future__ import annotations

import os
from enum import IntFlag
from typing import TYPE_CHECKING

from cvmlab.base.errors import InvariantError


if TYPE_CHECKING:
    from collections.abc import Callable

    from cvmlab.generations.files.inode import FileStat, Inode


class OpenMode(IntFlag):
    """What a descriptor was opened for."""

    READ = 1
    WRITE = 2


def _nothing() -> None:
    """Do nothing; the default of ``on_release``."""


class OpenFile:
    """An open file description.  Descriptors, mappings and delayed slots each hold a reference."""

    __slots__ = ("_holders", "inode", "mode", "on_release")

    def __init__(
        self,
        inode: Inode,
        mode: OpenMode = OpenMode.READ | OpenMode.WRITE,
        on_release: Callable[[], None] = _nothing,
    ) -> None:
        self.inode = inode
        self.mode = mode
        self.on_release = on_release
        self._holders = 0
        inode.hold()

    @property
    def released(self) -> bool:
        return self._holders == 0

    def hold(self) -> None:
        self._holders += 1

    def drop(self) -> None:
        """Drop a reference; the last one calls ``on_release``, then drops the inode."""
        if not self._holders:
            raise InvariantError("an open file was dropped more often than held")
        self._holders -= 1
        if not self._holders:
            self.on_release()
            self.inode.drop()


class Fd:
    """A descriptor.  Calls on a closed one are EBADF, as in any kernel."""

    __slots__ = ("_file", "cloexec", "closed")

    def __init__(self, file: OpenFile, *, cloexec: bool = False) -> None:
        self._file = file
        self.cloexec = cloexec
        self.closed = False
        file.hold()

    @property
    def file(self) -> OpenFile:
        if self.closed:
            raise OSError(9, f"{os.strerror(9)}: this descriptor was closed (rule open, fd)")
        return self._file

    @property
    def inode(self) -> Inode:
        return self.file.inode

    def dup(self) -> Fd:
        """Return a second descriptor of the same open file, as dup(), fork() and SCM_RIGHTS do."""
        return Fd(self.file)

    def close(self) -> None:
        """Close this descriptor; a second close() does nothing."""
        if not self.closed:
            self.closed = True
            self._file.drop()

    def fileno(self) -> int:
        """Return the host descriptor of the memory, to pass to QEMU."""
        return self.inode.storage.fileno()

    def read(self, offset: int, size: int) -> bytes:
        return self.inode.read(offset, size)

    def write(self, offset: int, data: bytes) -> int:
        return self.inode.write(offset, data)

    def truncate(self, size: int) -> None:
        self.inode.truncate(size)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        self.inode.fallocate(mode, offset, length)

    def stat(self) -> FileStat:
        return self.inode.stat()


def resolve(fd: Fd | int | None) -> Inode | None:
    """Return the inode behind an emulated descriptor, or None for any other."""
    return fd.inode if isinstance(fd, Fd) and not fd.closed else None


def descriptor_open(fd: Fd | int | None) -> bool:
    """Return whether *fd* is an open descriptor, emulated or of the host."""
    if isinstance(fd, Fd):
        return not fd.closed
    try:
        os.fstat(-1 if fd is None else fd)
    except OSError:
        return False
    return True
