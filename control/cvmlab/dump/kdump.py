# SPDX-License-Identifier: GPL-2.0-or-later
"""The compressed kdump format, which makedumpfile writes: headers, bitmaps, page descriptors.  Pure.

Source: makedumpfile's IMPLEMENTATION and diskdump_mod.h.  In blocks of 4 KiB: the header, the
sub-header, two bitmaps (pages of RAM, pages in the dump), a descriptor for each page in the dump, the
pages, the notes.

Decision: not kdumpling (PyPI, 0.4.0).  It gives the bitmaps half their size in the header and marks
pages that are not compressed as packed by snappy, so crash and makedumpfile refuse its files or read
noise; and it holds all memory as Python objects.
"""

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cvmlab.base.errors import ImageError
from cvmlab.dump.contents import Extent
from cvmlab.dump.notes import COREINFO_NAME, Note, find_note, release_of
from cvmlab.memory.ranges import PAGE_SIZE


BLOCK = PAGE_SIZE
SIGNATURE = b"KDUMP   "
ZLIB = 1  # DUMP_DH_COMPRESSED_ZLIB, of the header's status and of a descriptor's flags
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
_VERSION = 6
_HEAD = struct.Struct("<8si65s65s65s65s65s65s6xqqIiiIIIIIIi")
_SUB_HEAD = struct.Struct("<QiiQQqQqQqQQQQ")
_MACHINES = {62: b"x86_64", 183: b"aarch64"}  # EM_*, as uname says it
_UNKNOWN = b"unknown"  # uname's version: VMCOREINFO lacks it, and libkdumpfile wants something
_PHYS_BASE = re.compile(rb"^NUMBER\(phys_base\)=(-?\d+)$", re.MULTILINE)
_PRSTATUS = (b"CORE", 1)


@dataclass(frozen=True, slots=True)
class KdumpLayout:
    """Offsets in the file, and how many pages it has."""

    pages: int
    max_pfn: int
    bitmap_blocks: int  # of both bitmaps
    descriptors_at: int
    pages_at: int


def kdump_layout(extents: Sequence[Extent]) -> KdumpLayout:
    """Lay out the file up to the pages, whose sizes are known when they are compressed."""
    pages = sum(extent.size // PAGE_SIZE for extent in extents)
    max_pfn = max(((extent.gpa + extent.size) // PAGE_SIZE for extent in extents), default=0)
    blocks = 2 * _blocks(-(-max_pfn // 8))
    descriptors_at = (2 + blocks) * BLOCK
    pages_at = descriptors_at + pages * DESCRIPTOR.itemsize
    return KdumpLayout(pages, max_pfn, blocks, descriptors_at, pages_at)


def bitmap(extents: Iterable[Extent], layout: KdumpLayout) -> bytes:
    """Return one of the bitmaps: a bit for each page, the lowest bit of a byte first."""
    bits = np.zeros(layout.bitmap_blocks // 2 * BLOCK * 8, np.uint8)
    for extent in extents:
        first = extent.gpa // PAGE_SIZE
        bits[first : first + extent.size // PAGE_SIZE] = 1
    return np.packbits(bits, bitorder="little").tobytes()


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the pages: all notes.  VMCOREINFO's text is ``size`` bytes of them, from ``at`` on:
    makedumpfile, which may filter the file again, looks for it only there."""

    notes: bytes
    at: int = 0
    size: int = 0

    @classmethod
    def of(cls, notes: Sequence[Note]) -> "Tail":
        whole = b"".join(note.encode() for note in notes)
        found = find_note(notes, COREINFO_NAME)
        if found is None:
            return cls(whole)
        return cls(whole, whole.index(found.encode()) + found.content_at, len(found.content))

    @property
    def coreinfo(self) -> bytes:
        return self.notes[self.at : self.at + self.size]


def headers(
    machine: int, notes: Sequence[Note], layout: KdumpLayout, tail_at: int, time_s: int
) -> bytes:
    """Return the first two blocks; *tail_at* is where the Tail begins."""
    tail = Tail.of(notes)
    cpus = sum((note.name, note.type) == _PRSTATUS for note in notes)
    release = (release_of(notes) or "").encode()
    head = _HEAD.pack(
        SIGNATURE, _VERSION, b"Linux", b"", release, _UNKNOWN, _MACHINES.get(machine, b""), b"",
        time_s, 0, ZLIB, BLOCK, 1, layout.bitmap_blocks, min(layout.max_pfn, 0xFFFFFFFF),
        layout.pages, 0, layout.pages, 0, max(cpus, 1),
    )  # fmt: skip
    base = _PHYS_BASE.search(tail.coreinfo)
    sub_head = _SUB_HEAD.pack(
        int(base[1]) % (1 << 64) if base else 0, 0, 0, 0, layout.max_pfn,
        tail_at + tail.at if tail.size else 0, tail.size, tail_at, len(tail.notes), 0, 0,
        0, layout.max_pfn, layout.max_pfn,
    )  # fmt: skip
    return head.ljust(BLOCK, b"\0") + sub_head.ljust(BLOCK, b"\0")


def notes_place(head: bytes) -> tuple[int, int]:
    """Return offset and size of the notes, by the first two blocks of a file."""
    if len(head) < 2 * BLOCK:
        raise ImageError("the dump is cut short")
    fields = _SUB_HEAD.unpack_from(head, BLOCK)
    return int(fields[7]), int(fields[8])


def _blocks(size: int) -> int:
    return -(-size // BLOCK)
