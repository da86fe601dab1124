# SPDX-License-Identifier: GPL-2.0-or-later
"""One mapping of a memory file in which private pages really cannot be touched.

The file is mapped once and registered with userfaultfd for missing and minor faults, with the SIGBUS
feature: a page that is not mapped is SIGBUS at the exact address for loads and stores, and EFAULT for
system calls.  Making a page private drops it from the page table; sharing it maps it again with
UFFDIO_CONTINUE.  Contents stay in place, the number of VMAs does not grow, and no privilege is needed.

Limits: it covers this mapping in this process only.  A second mapping of the file, pread() on its
descriptor, and a page that the kernel pinned earlier bypass it.  This is why there is a ledger of pins,
and why only the guest's side gets the file's descriptor.  A child made by fork() has no mapping
(MADV_DONTFORK), because it would see everything.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, Self

from cvmlab.generations import syscalls
from cvmlab.generations.files.pins import Hold, Pin, PinLedger
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.syscalls import PAGE


_SYS_USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282}
_SYS_PIDFD_OPEN: Final = 434
_SYS_PROCESS_MADVISE: Final = 440
_IOV_MAX: Final = 1024
_USER_MODE_ONLY: Final = 1
_API: Final = 0xAA
_FEATURE_SIGBUS: Final = 1 << 7
_FEATURE_MINOR_SHMEM: Final = 1 << 10
_MODE_MISSING, _MODE_MINOR = 1, 4
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_CONTINUE: Final = 0xC020AA07
_DONT_WAKE: Final = 1
_CONTINUE: Final = struct.Struct("QQQq")  # address, length, mode, mapped
_LEAST_CHUNK: Final = 512
_MOST_CHUNKS: Final = 16384


class Side(StrEnum):
    """Who may touch a page: the guest alone, or the host too."""

    PRIVATE = "private"
    SHARED = "shared"


class HostView:
    """The host's mapping of ``size`` bytes of a memfd.  Use as a context manager, or close().

    ``initially`` is the state of all pages, and decides the cost.  A view that starts private needs one
    VMA, and sharing a hole allocates it.  In a view that starts shared, a touch allocates a hole; the
    first private page of a chunk (2 MiB, or a 16384th of the file) populates the rest of the chunk and
    may split the VMA there.  The number of VMAs stays far below the kernel's limit.
    """

    def __init__(self, fd: int, size: int, *, initially: Side = Side.PRIVATE) -> None:
        self.size = size
        self.pins = PinLedger()
        self._memfd = os.dup(fd)
        self._uffd = -1
        self._address = 0
        self._watched = RangeMap()
        least = -(-size // (PAGE * _MOST_CHUNKS))
        self._chunk = max(_LEAST_CHUNK, 1 << (least - 1).bit_length())
        try:
            self._address = syscalls.map_shared(self._memfd, size)
            syscalls.madvise(self._address, size, syscalls.MADV_DONTFORK)
            self._uffd = open_userfaultfd()
            if initially is Side.PRIVATE:
                self._register(0, -(-size // PAGE))
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> int:
        """Where the mapping begins in this process."""
        return self._address

    def close(self) -> None:
        """Unmap; the file itself does not change."""
        if self._uffd >= 0:
            os.close(self._uffd)
            self._uffd = -1
        if self._address:
            syscalls.unmap(self._address, self.size)
            self._address = 0
        if self._memfd >= 0:
            os.close(self._memfd)
            self._memfd = -1

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes out; OSError EFAULT where a page is private, never a signal."""
        return syscalls.read_memory(self._address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes in; OSError EFAULT where a page is private, never a signal."""
        syscalls.write_memory(self._address + offset, data)

    def pin(self, start: int, end: int, who: str, hold: Hold = Hold.IO) -> Pin:
        """Record that *who* holds pages ``[start, end)``: until unpinned they cannot become private."""
        self.read(start * PAGE, 1)
        return self.pins.pin(start, end, who, hold)

    def convert(self, start: int, end: int, to: Side) -> None:
        """Convert pages ``[start, end)``, except those that are in that state already.

        :raise OSError: EAGAIN when a page on its way to private is pinned; nothing was changed.
        """
        self.convert_many([(start, end)], to)

    def convert_many(self, runs: Iterable[tuple[int, int]], to: Side) -> None:
        """Convert several runs of pages in as few system calls as possible."""
        chosen = [(start, end) for start, end in runs if start < end]
        if to is Side.SHARED:
            for start, end in chosen:
                self._share_watched(start, end)
            return
        for start, end in chosen:
            if held := self.pins.first(start, end):
                raise OSError(
                    errno.EAGAIN,
                    f"page {max(start, held.start):#x} is pinned by {held.who} (rule not-pinned)",
                )
        for start, end in chosen:
            self._watch(start, end)
        self._drop(chosen)

    def punched(self, start: int, end: int, side: Side) -> None:
        """Follow a hole punched into the file; *side* is the state of its pages."""
        if side is Side.SHARED:
            self._share_watched(start, end)

    def _share_watched(self, start: int, end: int) -> None:
        """Map the shared pages that the kernel does not map by itself."""
        if self._watched.uniform(start, end, 1):
            self._share(start, end)
            return
        for run in self._watched.find(start, end, 1):
            self._share(run.start, run.end)

    def _watch(self, start: int, end: int) -> None:
        """Register the chunks of ``[start, end)``.  Their other pages are mapped, so they never fault."""
        if self._watched.uniform(start, end, 1):
            return
        low = start - start % self._chunk
        high = min(-(-end // self._chunk) * self._chunk, -(-self.size // PAGE))
        for run in list(self._watched.find(low, high, 0)):
            for first, last in ((run.start, min(start, run.end)), (max(end, run.start), run.end)):
                if first < last:
                    address = self._address + first * PAGE
                    syscalls.madvise(address, (last - first) * PAGE, syscalls.MADV_POPULATE_WRITE)
            self._register(run.start, run.end)

    def _register(self, start: int, end: int) -> None:
        address, length = self._address + start * PAGE, (end - start) * PAGE
        mode = _MODE_MISSING | _MODE_MINOR
        fcntl.ioctl(
            self._uffd, _UFFDIO_REGISTER, bytearray(struct.pack("QQQQ", address, length, mode, 0))
        )
        self._watched.set(start, end, 1)

    def _share(self, start: int, end: int) -> None:
        position, stop = self._address + start * PAGE, self._address + end * PAGE
        request = bytearray(_CONTINUE.size)
        while position < stop:
            position += self._continue(request, position, stop - position)

    def _continue(self, request: bytearray, address: int, length: int) -> int:
        """Map as much as one ioctl can; return the number of bytes done, possibly 0.

        The ioctl fails with EFAULT if the range begins with a hole, and with EEXIST if it begins with a
        mapped page.  If it meets one later, it fails with EAGAIN and reports its progress.
        """
        _CONTINUE.pack_into(request, 0, address, length, _DONT_WAKE, 0)
        try:
            fcntl.ioctl(self._uffd, _UFFDIO_CONTINUE, request)
        except OSError as error:
            mapped = int(_CONTINUE.unpack_from(request)[3])
            if error.errno == errno.EEXIST:
                return PAGE
            if error.errno == errno.EFAULT:
                self._allocate(address, length)
                return 0
            if error.errno != errno.EAGAIN:
                raise
            return max(mapped, 0)
        return length

    def _allocate(self, address: int, length: int) -> None:
        offset = address - self._address
        syscalls.fallocate(self._memfd, syscalls.FALLOC_KEEP_SIZE, offset, length)

    def _drop(self, runs: list[tuple[int, int]]) -> None:
        if len(runs) == 1:
            start, end = runs[0]
            address, size = self._address + start * PAGE, (end - start) * PAGE
            syscalls.madvise(address, size, syscalls.MADV_DONTNEED_LOCKED)
            return
        pidfd = syscalls.syscall(_SYS_PIDFD_OPEN, os.getpid(), 0)
        try:
            for vectors in _batches(self._address, runs):
                _drop_vectors(pidfd, vectors)
        finally:
            os.close(pidfd)


def _batches(address: int, runs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(runs), _IOV_MAX):
        yield [
            (address + start * PAGE, (end - start) * PAGE)
            for start, end in runs[first : first + _IOV_MAX]
        ]


def _drop_vectors(pidfd: int, vectors: list[tuple[int, int]]) -> None:
    """Drop up to 1024 runs by one process_madvise(), or one by one on kernels that refuse it."""
    packed = b"".join(struct.pack("QQ", *vector) for vector in vectors)
    try:
        done = syscalls.syscall_with_buffer(
            _SYS_PROCESS_MADVISE, pidfd, packed, len(vectors), syscalls.MADV_DONTNEED_LOCKED
        )
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        done = 0
    for address, size in vectors:
        if done >= size:
            done -= size
        else:
            syscalls.madvise(address + done, size - done, syscalls.MADV_DONTNEED_LOCKED)
            done = 0


def open_userfaultfd() -> int:
    """Open a userfaultfd that turns every unresolved fault into SIGBUS."""
    machine = os.uname().machine
    if machine not in _SYS_USERFAULTFD:
        raise OSError(errno.ENOSYS, f"no userfaultfd number known for {machine}")
    flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
    fd = syscalls.syscall(_SYS_USERFAULTFD[machine], flags)
    try:
        features = _FEATURE_SIGBUS | _FEATURE_MINOR_SHMEM
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("QQQ", _API, features, 0)))
    except OSError:
        os.close(fd)
        raise
    return fd


def supported() -> str | None:
    """Return None if this host can enforce a view, else the reason why it cannot."""
    memfd = os.memfd_create("cvmlab-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(memfd, PAGE)
        with HostView(memfd, PAGE):
            return None
    except OSError as error:
        return f"userfaultfd cannot enforce a host view here: {error.strerror}"
    finally:
        os.close(memfd)
