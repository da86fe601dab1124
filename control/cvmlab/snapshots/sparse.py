# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of sparse files: only what has storage is read and written.

The guest's memory files are compared with their page-state table by the storage that they have, so a
copy has storage exactly where the original has.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator

import numpy as np
import zstandard
from numpy.typing import NDArray
from xxhash import xxh3_128


_LIBC = ctypes.CDLL(None, use_errno=True)
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
BLOCK_BYTES = 4096
CHUNK_BYTES = 1 << 20  # what is read is still in the CPU's cache when it is written
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
        if start < at:  # no file any more: a VM lets go of its memory when its QEMU dies
            raise _shorter()
        hole = min(os.lseek(fd, start, os.SEEK_HOLE), stop)
        if start < hole:
            yield start, hole - start
        at = max(hole, start + BLOCK_BYTES)  # a guest may have punched a hole here meanwhile


def chunks(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the extents, none longer than CHUNK_BYTES."""
    for start, length in extents(fd):
        for at in range(start, start + length, CHUNK_BYTES):
            yield at, min(CHUNK_BYTES, start + length - at)


def copy(source: int, target: int, ranges: Iterable[tuple[int, int]] | None = None) -> int:
    """Copy the extents of *source* to the same places of *target*, which has holes there.

    With *ranges* (offset and length, bytes), only what lies in them.

    *source* may be the memory of a guest that runs, and punch holes meanwhile.  Return the number of
    bytes; raise OSError, such as for a full disk.
    """
    places = [(0, os.fstat(source).st_size)] if ranges is None else ranges
    return sum(
        _copy_part(source, target, start, length)
        for first, count in places
        for start, length in extents(source, first, first + count)
    )


def _copy_part(source: int, target: int, at: int, length: int) -> int:
    """Copy within the kernel, in few calls: other threads have Python for as long.

    copy_file_range(2) would refuse two file systems; sendfile(2) goes on where *target* stands.
    """
    os.lseek(target, at, os.SEEK_SET)
    done = 0
    while done < length:
        count = os.sendfile(target, source, at + done, length - done)
        if not count:
            raise _shorter()
        done += count
    return length


def _shorter() -> OSError:
    return OSError(errno.EIO, "the file became shorter while it was read")


def _buffer() -> memoryview:
    return memoryview(bytearray(CHUNK_BYTES))


def _read(fd: int, at: int, length: int, buffer: memoryview) -> memoryview:
    """Read into *buffer* by a system call: a load from a mapping would give storage to a hole."""
    wanted = buffer[:length]
    got = 0
    while got < length:
        count = os.preadv(fd, [wanted[got:]], at + got)
        if not count:
            raise _shorter()
        got += count
    return wanted


def refresh(source: int, target: int, ranges: Iterable[tuple[int, int]]) -> int:
    """Make *target*, a copy of *source*, equal again in *ranges* (offset and length, bytes).

    Return the number of bytes that were copied; raise OSError.
    """
    copied = 0
    for first, count in ranges:
        at = first
        for start, length in extents(source, first, first + count):
            _punch(target, at, start - at)
            copied += _copy_part(source, target, start, length)
            at = start + length
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
    """Return a digest of a file's size, and of place and content of each block that is not zero.

    So a copy that has lost its holes, as archives make it, has the same digest.  Two XXH3 of 128 bits:
    they tell damage, at the speed of memory.  No digest would tell who wrote the file.
    """
    contents, places, buffer = xxh3_128(), xxh3_128(), _buffer()
    for at, length in chunks(fd):
        data = _read(fd, at, length, buffer)
        filled = _filled(data)
        places.update((filled + at).astype("<i8").tobytes())
        for start, end in _runs(filled, length):
            contents.update(data[start:end])
    size = os.fstat(fd).st_size
    return xxh3_128(f"{size} {places.hexdigest()} {contents.hexdigest()}".encode()).hexdigest()


def _filled(data: memoryview) -> NDArray[np.int64]:
    """Return the offset of each block of *data* that is not all zeros; the last may be shorter."""
    whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
    blocks = np.frombuffer(data[:whole], np.uint64).reshape(-1, BLOCK_BYTES // 8)
    found = np.flatnonzero(np.bitwise_or.reduce(blocks, axis=1)) * BLOCK_BYTES
    return np.append(found, whole) if any(data[whole:]) else found


def _runs(filled: NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of neighbouring blocks, in the first *size* bytes."""
    for run in np.split(filled, np.flatnonzero(np.diff(filled) != BLOCK_BYTES) + 1):
        if len(run):
            yield int(run[0]), min(int(run[-1]) + BLOCK_BYTES, size)


def compress(source: int, target: int) -> list[tuple[int, int]]:
    """Write the content of all extents of *source* to *target* (zstd); return the extents."""
    found = list(extents(source))
    packer = zstandard.ZstdCompressor(level=_LEVEL, threads=-1).compressobj()
    at, buffer = 0, _buffer()
    for start, length in chunks(source):
        data = packer.compress(_read(source, start, length, buffer))
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
