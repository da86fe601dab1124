# SPDX-License-Identifier: GPL-2.0-or-later
"""Count what programs do in user mode, with the counters of the host's CPU: perf_event_open(2)."""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Self


# include/uapi/linux/perf_event.h and asm/unistd_64.h
_SYS_PERF_EVENT_OPEN = 298
_ATTRIBUTES_BYTES = 112
_DISABLED, _INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV, _ENABLE_ON_EXEC = (
    1 << bit for bit in (0, 1, 5, 6, 12)
)
_FLAG_CLOEXEC = 8
_HARDWARE, _SOFTWARE = 0, 1
_INSTRUCTIONS, _TASK_CLOCK = 1, 1


class Why(IntEnum):
    """Errors that say there is no such counter here: no CPU counter, no call, not allowed."""

    NO_COUNTER = errno.ENOENT
    NOT_SUPPORTED = errno.EOPNOTSUPP
    NO_CALL = errno.ENOSYS
    NOT_ALLOWED = errno.EACCES
    NOT_PERMITTED = errno.EPERM


class Counter:
    """Counts in the programs that are started while it is open, their threads and children too."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @classmethod
    @contextmanager
    def instructions(cls) -> Iterator[Self]:
        """Count instructions; there are none where the machine does not count them."""
        with cls._opened(_HARDWARE, _INSTRUCTIONS) as counter:
            yield counter

    @classmethod
    @contextmanager
    def clock(cls) -> Iterator[Self]:
        """Count nanoseconds, which every kernel with perf events can."""
        with cls._opened(_SOFTWARE, _TASK_CLOCK) as counter:
            yield counter

    @classmethod
    @contextmanager
    def _opened(cls, kind: int, event: int) -> Iterator[Self]:
        fd = _open(kind, event)
        try:
            yield cls(fd)
        finally:
            if fd is not None:
                os.close(fd)

    @property
    def value(self) -> int | None:
        """Return the count of programs that have ended; None if it cannot be counted here."""
        return None if self._fd is None else int.from_bytes(os.read(self._fd, 8), "little")


def _open(kind: int, event: int) -> int | None:
    if platform.machine() != "x86_64":
        return None
    flags = _DISABLED | _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV | _ENABLE_ON_EXEC
    attributes = struct.pack("<IIQQQQQ", kind, _ATTRIBUTES_BYTES, event, 0, 0, 0, flags)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(
        _SYS_PERF_EVENT_OPEN, attributes.ljust(_ATTRIBUTES_BYTES, b"\0"), 0, -1, -1, _FLAG_CLOEXEC
    )
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    if error not in set(Why):
        raise OSError(error, f"perf_event_open: {os.strerror(error)}")
    return None
