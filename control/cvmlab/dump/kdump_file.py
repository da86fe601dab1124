# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a dump in the compressed kdump format."""

import os
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cvmlab.base.errors import ImageError
from cvmlab.dump.contents import Extent
from cvmlab.dump.core_file import CoreContent
from cvmlab.dump.kdump import (
    BLOCK,
    DESCRIPTOR,
    SIGNATURE,
    ZLIB,
    KdumpLayout,
    Tail,
    bitmap,
    headers,
    kdump_layout,
    notes_place,
)
from cvmlab.dump.notes import QEMU_NAME, Note, split_notes
from cvmlab.memory.ranges import PAGE_SIZE


_CHUNK_BYTES = 1 << 20
_LEVEL = 1  # a dump is mostly text and pointers: more effort saves little
_AHEAD = 8  # chunks in memory for each thread
_ZERO_PAGE = bytes(PAGE_SIZE)


def write_kdump(path: Path, content: CoreContent, source: int) -> int:
    """Write *path* anew from a core file open as *source*; return how many pages it has.

    Pages of zeros share one place in the file.  QEMU's own notes are left out: libkdumpfile would take
    the page tables' address from CR3 there, with the bit of SEV guests in it.  Raise OSError.
    """
    layout = kdump_layout(content.extents)
    notes = [note for note in content.notes if note.name != QEMU_NAME]
    notes.append(content.states.note())
    described = np.zeros(layout.pages, DESCRIPTOR)
    with path.open("wb") as out:
        out.seek(layout.pages_at)
        zero = _packed(_ZERO_PAGE)
        out.write(zero)
        at, page = layout.pages_at + len(zero), 0
        for pages in _compressed(content.extents, source):
            for data in pages:
                if data is None:
                    described[page] = (layout.pages_at, len(zero), ZLIB, 0)
                else:
                    flags = ZLIB if len(data) < PAGE_SIZE else 0
                    described[page] = (at, len(data), flags, 0)
                    at += len(data)
                page += 1
            out.write(b"".join(data for data in pages if data is not None))
        out.write(Tail.of(notes).notes)
        out.seek(0)
        out.write(headers(content.machine, notes, layout, at, int(time.time())))
        out.write(_bitmaps(content, layout))
        out.write(described.tobytes())
    return layout.pages


def _bitmaps(content: CoreContent, layout: KdumpLayout) -> bytes:
    """Return both: pages that are RAM, and pages in the dump."""
    dumped = bitmap(content.extents, layout)
    ram = [
        Extent(slot.gpa, min(slot.size, layout.max_pfn * PAGE_SIZE - slot.gpa), ())
        for slot in content.states.slots
        if slot.gpa < layout.max_pfn * PAGE_SIZE
    ]
    return bitmap(ram, layout) + dumped


def _compressed(extents: Sequence[Extent], source: int) -> Iterator[list[bytes | None]]:
    """Yield the pages of each chunk in order, compressed if that is shorter; None: all zeros."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[list[bytes | None]]] = []
        for extent in extents:
            for piece in extent.pieces:
                for at in range(piece.offset, piece.offset + piece.size, _CHUNK_BYTES):
                    size = min(_CHUNK_BYTES, piece.offset + piece.size - at)
                    ahead.append(pool.submit(_chunk, source, at, size))
                    if len(ahead) >= _AHEAD * threads:
                        yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def _chunk(source: int, start: int, size: int) -> list[bytes | None]:
    data = os.pread(source, size, start).ljust(size, b"\0")
    words = np.frombuffer(data, np.uint64).reshape(-1, PAGE_SIZE // 8)
    used = np.asarray(words.any(axis=1))
    return [
        _packed(data[at : at + PAGE_SIZE]) if used[at // PAGE_SIZE] else None
        for at in range(0, size, PAGE_SIZE)
    ]


def _packed(page: bytes) -> bytes:
    packed = zlib.compress(page, _LEVEL)
    return packed if len(packed) < PAGE_SIZE else page


def is_kdump(path: Path) -> bool:
    """Return whether *path* is a dump in this format, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error


def read_notes(path: Path) -> list[Note]:
    """Return the notes of a dump in this format; raise ImageError if it has none."""
    with path.open("rb") as file:
        at, size = notes_place(file.read(2 * BLOCK))
        file.seek(at)
        return list(split_notes(file.read(size)))
