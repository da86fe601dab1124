# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that Python lacks, through libc; each raises OSError on failure."""

import ctypes
import os
import sys
from typing import Final


PAGE: Final = 4096

FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_COLLAPSE: Final = 0x08
FALLOC_ZERO: Final = 0x10
FALLOC_INSERT: Final = 0x20
FALLOC_UNSHARE: Final = 0x40

MADV_DONTNEED: Final = 4
MADV_DONTFORK: Final = 10
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24

_AT_EMPTY_PATH = 0x1000
_MAP_SHARED, _PROT_RW = 1, 3
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mlock.argtypes = _libc.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.syscall.restype = ctypes.c_long


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_transfer = (
    ctypes.c_int,
    ctypes.POINTER(_Iovec),
    ctypes.c_ulong,
    ctypes.POINTER(_Iovec),
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_libc.process_vm_readv.argtypes = _libc.process_vm_writev.argtypes = _transfer
_libc.process_vm_readv.restype = _libc.process_vm_writev.restype = ctypes.c_ssize_t


def _fail(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate or punch; unlike os.posix_fallocate() it takes a mode."""
    if _libc.fallocate(fd, mode, offset, length):
        raise _fail("fallocate")


def map_shared(fd: int, size: int) -> int:
    """Map *size* bytes of *fd*, readable and writable; return the address."""
    address = _libc.mmap(None, size, _PROT_RW, _MAP_SHARED, fd, 0)
    if address == _MAP_FAILED:
        raise _fail("mmap")
    return int(address)


def unmap(address: int, size: int) -> None:
    if _libc.munmap(address, size):
        raise _fail("munmap")


def madvise(address: int, size: int, advice: int) -> None:
    if _libc.madvise(address, size, advice):
        raise _fail("madvise")


def lock(address: int, size: int) -> None:
    if _libc.mlock(address, size):
        raise _fail("mlock")


def unlock(address: int, size: int) -> None:
    if _libc.munlock(address, size):
        raise _fail("munlock")


def read_memory(address: int, size: int) -> bytes:
    """Read this process's memory by a system call: a forbidden page is EFAULT, not a signal."""
    buffer = ctypes.create_string_buffer(size)
    _copy(_libc.process_vm_readv, buffer, address, size)
    return buffer.raw


def write_memory(address: int, data: bytes) -> None:
    """Write this process's memory by a system call: a forbidden page is EFAULT, not a signal."""
    _copy(_libc.process_vm_writev, ctypes.create_string_buffer(data, len(data)), address, len(data))


def _copy(call: object, buffer: object, address: int, size: int) -> None:
    local = _Iovec(ctypes.addressof(buffer), size)  # type: ignore[arg-type]
    remote = _Iovec(address, size)
    done = call(os.getpid(), local, 1, remote, 1, 0)  # type: ignore[operator]
    if done < 0:
        raise _fail("process_vm")
    if done < size:
        raise OSError(14, f"process_vm: only {done} of {size} bytes could be reached")


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with integer arguments, for calls that libc does not wrap."""
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(item) for item in arguments))
    if result < 0:
        raise _fail(f"system call {number}")
    return int(result)


def syscall_with_buffer(number: int, first: int, buffer: bytes, *rest: int) -> int:
    """Make a system call whose second argument points to *buffer*; a last argument of zero is added."""
    pointer = ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p)
    tail = (ctypes.c_long(item) for item in (*rest, 0))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(first), pointer, *tail)
    if result < 0:
        raise _fail(f"system call {number}")
    return int(result)


def as_buffer(address: int, size: int) -> memoryview:
    """Return this process's memory as a buffer, for calls that take one; it is not read here."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def vmsplice(pipe: int, address: int, size: int) -> int:
    """Put pages of this process into a pipe by reference; return the number of bytes."""
    done = _libc.vmsplice(pipe, ctypes.byref(_Iovec(address, size)), ctypes.c_ulong(1), 0)
    if done < 0:
        raise _fail("vmsplice")
    return int(done)


def statx_attributes(fd: int) -> int:
    """Return stx_attributes of an open file; it works for O_PATH descriptors, too."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(fd, b"", _AT_EMPTY_PATH, 0, buffer):
        raise _fail("statx")
    return int.from_bytes(buffer.raw[8:16], sys.byteorder)
