# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of an ELF core, and ours among them: the state of each page.  Pure.

The note ``CVMLAB`` of type 0x6c6d7663 ("cvml"; crash goes by the number alone, and takes most low
ones for CPU state) has, little-endian: version 1 (4 bytes), number of slots (4), the bit
of addresses in page tables that is no part of the address (8), whether private memory is in the dump
(8); then for each slot its guest physical address, its offset in the table in bytes of memory, and
its size (8 each); then the page-state table, a byte for each 4 KiB of memory, compressed by zlib.  The
bytes are those of cvmlab.memory.states.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cvmlab.base.errors import ImageError
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.states import STATE_MASK, PageState


OUR_NAME = b"CVMLAB"
PAGE_STATES = 0x6C6D7663
COREINFO_NAME = b"VMCOREINFO"
QEMU_NAME = b"QEMU"  # of notes with a CPU's control registers
_VERSION = 1
_HEAD = struct.Struct("<IIQQ")
_SLOT = struct.Struct("<QQQ")
_NOTE = struct.Struct("<III")  # Elf64_Nhdr


@dataclass(frozen=True, slots=True)
class Note:
    """A note of an ELF file: the name without its final zero."""

    name: bytes
    type: int
    content: bytes

    @property
    def content_at(self) -> int:
        """Where the content is in what encode() returns."""
        return _NOTE.size + _aligned(len(self.name) + 1)

    def encode(self) -> bytes:
        name = self.name + b"\0"
        head = _NOTE.pack(len(name), len(self.content), self.type)
        return head + _padded(name) + _padded(self.content)


def split_notes(data: bytes) -> Iterator[Note]:
    """Yield the notes in *data*; raise ImageError if one is cut short."""
    at = 0
    while at < len(data):
        if at + _NOTE.size > len(data):
            raise ImageError("a note of the dump is cut short")
        names, contents, kind = _NOTE.unpack_from(data, at)
        name_at = at + _NOTE.size
        content_at = name_at + _aligned(names)
        at = content_at + _aligned(contents)
        if at > len(data):
            raise ImageError("a note of the dump is cut short")
        name = data[name_at : name_at + names].rstrip(b"\0")
        yield Note(name, kind, data[content_at : content_at + contents])


@dataclass(frozen=True, slots=True, eq=False)
class PageStates:
    """The state of each page at the time of a dump; see the module for ``alias_bit``."""

    slots: tuple[Slot, ...]
    table: NDArray[np.uint8] = field(repr=False)  # by offset in the memory files
    alias_bit: int = 0
    has_private: bool = True

    def state_of(self, gpa: int) -> PageState:
        """Return the state of the page that holds *gpa*; raise IndexError outside RAM."""
        for slot in self.slots:
            if 0 <= gpa - slot.gpa < slot.size:
                page = (slot.offset + gpa - slot.gpa) // PAGE_SIZE
                return PageState(int(self.table[page]) & STATE_MASK)
        raise IndexError(f"{gpa:#x} is not guest RAM")

    def note(self) -> Note:
        """Return the note that carries them in a dump."""
        head = _HEAD.pack(_VERSION, len(self.slots), self.alias_bit, self.has_private)
        slots = (_SLOT.pack(slot.gpa, slot.offset, slot.size) for slot in self.slots)
        table = zlib.compress(self.table.tobytes(), 1)
        return Note(OUR_NAME, PAGE_STATES, b"".join([head, *slots, table]))

    @classmethod
    def of_note(cls, note: Note) -> Self:
        """Read what note() made; raise ImageError if it makes no sense."""
        try:
            version, count, alias_bit, has_private = _HEAD.unpack_from(note.content)
            if version != _VERSION:
                raise ImageError(f"the page states of the dump have version {version}, not 1")
            end = _HEAD.size + count * _SLOT.size
            slots = tuple(
                Slot(*_SLOT.unpack_from(note.content, at))
                for at in range(_HEAD.size, end, _SLOT.size)
            )
            table = np.frombuffer(zlib.decompress(note.content[end:]), np.uint8)
        except (struct.error, zlib.error) as error:
            raise ImageError(f"the page states of the dump make no sense: {error}") from error
        if any(slot.offset + slot.size > len(table) * PAGE_SIZE for slot in slots):
            raise ImageError("the page states of the dump end before the guest's memory")
        return cls(slots, table, alias_bit, bool(has_private))


def find_note(notes: Sequence[Note], name: bytes) -> Note | None:
    """Return the first note of that name, None if there is none."""
    return next((note for note in notes if note.name == name), None)


def release_of(notes: Sequence[Note]) -> str | None:
    """Return the release of the kernel, as VMCOREINFO has it."""
    return _coreinfo(notes, "OSRELEASE")


def kernel_offset_of(notes: Sequence[Note]) -> int | None:
    """Return how far KASLR has moved the kernel, as VMCOREINFO has it; None if it does not say.

    :raise ImageError: it says something else.
    """
    found = _coreinfo(notes, "KERNELOFFSET")
    try:
        return None if found is None else int(found, 16)
    except ValueError as error:
        raise ImageError(f"the guest's VMCOREINFO has a KERNELOFFSET of {found!r}") from error


def _coreinfo(notes: Sequence[Note], wanted: str) -> str | None:
    coreinfo = find_note(notes, COREINFO_NAME)
    if coreinfo is None:
        return None
    for line in coreinfo.content.decode("ascii", "replace").splitlines():
        name, _, value = line.partition("=")
        if name == wanted:
            return value
    return None


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")
