# SPDX-License-Identifier: GPL-2.0-or-later
"""The real memory behind a restricted file: a memfd or an unnamed tmpfs file of the host.

Flag bits of old patches mean something else to today's kernel, so none is passed on: the host's file
is always an ordinary one, and the engine decides which operations are allowed.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from cvmlab.generations.compat import override
from cvmlab.generations.files.range_map import RangeMap, ValueRun
from cvmlab.generations.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, PAGE, fallocate


_SECTOR = 512
_TMPFILE = os.O_TMPFILE


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes allocated for a file, by the host's count and by the engine's."""

    host_bytes: int
    known_bytes: int


class Storage:
    """Sparse pages behind one inode.  Owns ``fd``; offsets and lengths are whole pages."""

    __slots__ = ("_fd", "_present")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._present = RangeMap()

    @classmethod
    def memfd(cls, name: str, size: int = 0, *, huge_shift: int | None = None) -> Self:
        """Make a memfd, of hugetlb pages of ``1 << huge_shift`` bytes if asked; OSError if there are none."""
        flags = os.MFD_CLOEXEC
        if huge_shift is not None:
            flags |= os.MFD_HUGETLB | huge_shift << os.MFD_HUGE_SHIFT
        storage = cls(os.memfd_create(name, flags))
        try:
            storage.resize(size)
        except OSError:
            storage.close()
            raise
        return storage

    @classmethod
    def in_mount(cls, mount_point: str) -> Self:
        """Make an unnamed file in a tmpfs mount, so that its huge= and mpol= options really apply."""
        return cls(os.open(mount_point, os.O_RDWR | os.O_CLOEXEC | _TMPFILE, 0o600))

    def fileno(self) -> int:
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
            self._fd = -1

    def resize(self, size: int) -> None:
        """Set the size in bytes.

        Unless the file grows, pages beyond it are freed, including those allocated beyond the old size.
        """
        grows = size > os.fstat(self._fd).st_size
        os.ftruncate(self._fd, size)
        if not grows:
            self._present.set(-(-size // PAGE), 1 << 52, 0)

    def allocate(self, start: int, end: int) -> None:
        """Back pages ``[start, end)``; existing pages keep their content."""
        fallocate(self._fd, FALLOC_KEEP_SIZE, start * PAGE, (end - start) * PAGE)
        self._present.set(start, end, 1)

    def free(self, start: int, end: int) -> None:
        """Free pages ``[start, end)``."""
        fallocate(
            self._fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, start * PAGE, (end - start) * PAGE
        )
        self._present.set(start, end, 0)

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as the guest sees them; holes and bytes beyond the end are zero."""
        return os.pread(self._fd, size, offset).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes as the guest does."""
        os.pwrite(self._fd, data, offset)
        self._present.set(offset // PAGE, -(-(offset + len(data)) // PAGE), 1)

    def has(self, index: int) -> bool:
        return self._present[index] == 1

    def present(self, start: int, end: int) -> Iterator[ValueRun]:
        """Yield the runs of ``[start, end)`` that have storage."""
        return self._present.find(start, end, 1)

    def absent(self, start: int, end: int) -> Iterator[ValueRun]:
        """Yield the runs of ``[start, end)`` that have none."""
        return self._present.find(start, end, 0)

    def zero(self, start: int, end: int) -> None:
        """Make pages ``[start, end)`` read as zero."""
        self.free(start, end)

    def allocate_huge(self, start: int, end: int) -> None:
        """Back one huge page.  Here it is only counted; storage is allocated as it is written."""
        del start, end

    def free_huge(self, start: int, end: int) -> None:
        """Free one huge page."""
        self.free(start, end)

    def notice(self) -> None:
        """Record the pages that another process, such as QEMU, has touched."""
        end = 0
        size = os.fstat(self._fd).st_size
        while end < size:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(self._fd, start, os.SEEK_HOLE)
            self._present.set(start // PAGE, -(-end // PAGE), 1)

    @property
    def usage(self) -> Usage:
        host = 0 if self.closed else os.fstat(self._fd).st_blocks * _SECTOR
        return Usage(host, self._present.count(0, 1 << 52, 1) * PAGE)


class HugetlbStorage(Storage):
    """Memory in hugetlb pages of the host: allocated and freed whole, written through a mapping."""

    __slots__ = ()

    @override
    def allocate(self, start: int, end: int) -> None:
        fallocate(self.fileno(), FALLOC_KEEP_SIZE, start * PAGE, (end - start) * PAGE)

    @override
    def allocate_huge(self, start: int, end: int) -> None:
        self.allocate(start, end)

    @override
    def free_huge(self, start: int, end: int) -> None:
        self.zero(start, end)

    @override
    def zero(self, start: int, end: int) -> None:
        """Punch a hole; the kernel zeroes the rest of partly punched huge pages."""
        mode = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
        fallocate(self.fileno(), mode, start * PAGE, (end - start) * PAGE)

    @override
    def write(self, offset: int, data: bytes) -> None:
        size = os.fstat(self.fileno()).st_size
        with mmap.mmap(self.fileno(), size) as memory:
            memory[offset : offset + len(data)] = data
