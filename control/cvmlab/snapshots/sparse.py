# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of sparse files: only what has storage is read and written.

The guest's memory files are compared with their page-state table by the storage that they have, so a
copy has storage exactly where the original has.
"""

import ctypes
import errno
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import zstandard


_LIBC = ctypes.CDLL(None, use_errno=True)
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
CHUNK_BYTES = 4 << 20  # between two of which another thread may run
_LEVEL = 3


def extents(fd: int, first: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each part of a file that has storage, in order; bytes.

    With *first* and *end*, only what lies between them.
    """
    stop = os.fstat(fd).st_size if end is None else end
    at = first
    while at < stop:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        if start >= stop:
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), stop)
        yield start, at - start


def chunks(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the extents, none longer than CHUNK_BYTES."""
    for start, length in extents(fd):
        for at in range(start, start + length, CHUNK_BYTES):
            yield at, min(CHUNK_BYTES, start + length - at)


@contextmanager
def _mapped(fd: int) -> Iterator[memoryview]:
    """Map a file for reading.  To write from a mapping is the fastest copy that every file allows."""
    if not os.fstat(fd).st_size:
        yield memoryview(b"")
        return
    with closing(mmap.mmap(fd, 0, prot=mmap.PROT_READ)) as mapping, memoryview(mapping) as view:
        yield view


def copy(source: int, target: int) -> int:
    """Copy the extents of *source* to the same places of *target*, which has holes there.

    Return the number of bytes; raise OSError, such as for a full disk.
    """
    copied = 0
    with _mapped(source) as view:
        for at, length in chunks(source):
            with view[at : at + length] as part:
                _write(target, part, at)
            copied += length
    return copied


def refresh(source: int, target: int, ranges: Iterable[tuple[int, int]]) -> int:
    """Make *target*, a copy of *source*, equal again in *ranges* (offset and length, bytes).

    Return the number of bytes that were copied; raise OSError.
    """
    copied = 0
    with _mapped(source) as view:
        for first, count in ranges:
            at = first
            for start, length in extents(source, first, first + count):
                _punch(target, at, start - at)
                with view[start : start + length] as part:
                    _write(target, part, start)
                at = start + length
                copied += length
            _punch(target, at, first + count - at)
    return copied


def _punch(fd: int, at: int, length: int) -> None:
    if not length:
        return
    offset, size = ctypes.c_longlong(at), ctypes.c_longlong(length)
    if _LIBC.fallocate64(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, size) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(target: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], offset + written)


def digest(fd: int) -> str:
    """Return the SHA-256 of a file's size, and of place, length and content of each extent."""
    found = hashlib.sha256(str(os.fstat(fd).st_size).encode())
    with _mapped(fd) as view:
        for at, length in extents(fd):
            found.update(f" {at} {length} ".encode())
            with view[at : at + length] as part:
                found.update(part)
    return found.hexdigest()


def compress(source: int, target: int) -> list[tuple[int, int]]:
    """Write the content of all extents of *source* to *target* (zstd); return the extents."""
    found = list(extents(source))
    packer = zstandard.ZstdCompressor(level=_LEVEL, threads=-1).compressobj()
    at = 0
    with _mapped(source) as view:
        for start, length in chunks(source):
            with view[start : start + length] as part:
                data = packer.compress(part)
            _write(target, memoryview(data), at)
            at += len(data)
    _write(target, memoryview(packer.flush()), at)
    return found


def decompress(source: int, target: int, places: list[tuple[int, int]]) -> None:
    """Undo compress(): fill *target*; raise ValueError if the content does not fit *places*."""
    with os.fdopen(os.dup(source), "rb") as file:
        file.seek(0)
        try:
            with zstandard.ZstdDecompressor().stream_reader(file) as reader:
                for start, length in places:
                    for at in range(start, start + length, CHUNK_BYTES):
                        wanted = min(CHUNK_BYTES, start + length - at)
                        _write(target, memoryview(_exactly(reader, wanted)), at)
                if reader.read(1):
                    raise ValueError("there is more content than the manifest says")
        except zstandard.ZstdError as error:
            raise ValueError(f"it cannot be decompressed: {error}") from error


def _exactly(reader: zstandard.ZstdDecompressionReader, count: int) -> bytes:
    parts = []
    while count:
        part = reader.read(count)
        if not part:
            raise ValueError("there is less content than the manifest says")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
