# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of a dump as an ELF core file.  Pure.

Each extent of guest memory is a PT_LOAD segment, at its guest physical address and without a virtual
one, as QEMU's own dumps have it.  It starts on a page of the file, so that memory without content is
a hole there.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cvmlab.base.errors import ConfigError
from cvmlab.dump.contents import Extent
from cvmlab.dump.notes import Note
from cvmlab.memory.ranges import PAGE_SIZE


_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_ET_CORE, _EV_CURRENT = 4, 1
_PT_LOAD, _PT_NOTE = 1, 4
_RWX = 7
_NO_ALIGNMENT = 0  # with another value crash takes the file for a netdump
_MAX_SEGMENTS = 0xFFFE  # 0xffff means that the number is elsewhere, which few programs know


@dataclass(frozen=True, slots=True)
class CoreLayout:
    """The first bytes of the file, and where each extent of memory begins in it."""

    head: bytes
    offsets: tuple[int, ...]
    size: int  # of the whole file


def core_layout(machine: int, notes: Sequence[Note], extents: Sequence[Extent]) -> CoreLayout:
    """Lay out a core file; *machine* is its EM_*.  Raise ConfigError if it has too many parts."""
    if len(extents) + 1 > _MAX_SEGMENTS:
        raise ConfigError(
            f"the guest's shared memory is in {len(extents)} parts, too many for an ELF file",
            hint="--format kdump has no such limit",
        )
    noted = b"".join(note.encode() for note in notes)
    notes_at = _EHDR.size + (len(extents) + 1) * _PHDR.size
    at, offsets = _paged(notes_at + len(noted)), []
    for extent in extents:
        offsets.append(at)
        at += _paged(extent.size)
    segments = [_PHDR.pack(_PT_NOTE, 0, notes_at, 0, 0, len(noted), len(noted), 4)]
    segments += [
        _PHDR.pack(_PT_LOAD, _RWX, offset, 0, extent.gpa, extent.size, extent.size, _NO_ALIGNMENT)
        for extent, offset in zip(extents, offsets, strict=True)
    ]
    head = b"".join([_header(machine, len(segments)), *segments, noted])
    return CoreLayout(head, tuple(offsets), at)


def _header(machine: int, segments: int) -> bytes:
    return _EHDR.pack(
        _IDENT, _ET_CORE, machine, _EV_CURRENT, 0, _EHDR.size, 0, 0,
        _EHDR.size, _PHDR.size, segments, 0, 0, 0,
    )  # fmt: skip


def _paged(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
