# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a dump as an ELF core from the memory files, and read one back."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from cvmlab.base.errors import ImageError
from cvmlab.dump.contents import Extent, Holder, Piece, Reach, extents, pieces
from cvmlab.dump.elf_core import core_layout
from cvmlab.dump.notes import OUR_NAME, Note, PageStates, find_note, split_notes
from cvmlab.memory.states import Layout
from cvmlab.memory.table import PageRun, runs_of
from cvmlab.snapshots import sparse


_MACHINE_AT = 18  # Elf64_Ehdr.e_machine


@dataclass(frozen=True, slots=True)
class CoreContent:
    """What goes into a dump: *machine* is the EM_* of the guest's CPUs."""

    machine: int
    notes: Sequence[Note]
    states: PageStates
    extents: Sequence[Extent]


def write_core(path: Path, content: CoreContent, files: Mapping[Holder, int]) -> int:
    """Write *path* anew; return how many bytes of memory it has.  Raise OSError.

    *files* are descriptors of the memory files.  Memory without content or without storage becomes a
    hole, here as there.
    """
    notes = [*content.notes, content.states.note()]
    layout = core_layout(content.machine, notes, content.extents)
    copied = 0
    with path.open("wb") as out:
        out.write(layout.head)
        out.flush()
        for extent, at in zip(content.extents, layout.offsets, strict=True):
            for piece in extent.pieces:
                if piece.holder is not Holder.NOBODY:
                    place = at + piece.gpa - extent.gpa
                    copied += _copy(out.fileno(), place, files[piece.holder], piece)
        os.truncate(out.fileno(), layout.size)
    return copied


def _copy(out: int, place: int, source: int, piece: Piece) -> int:
    """Copy what a piece has storage for; return the number of bytes."""
    copied = 0
    for start, length in sparse.extents(source, piece.offset, piece.offset + piece.size):
        os.lseek(out, place + start - piece.offset, os.SEEK_SET)
        at, end = start, start + length
        while at < end:
            sent = os.sendfile(out, source, at, end - at)
            if not sent:
                raise OSError(errno.EIO, "the memory file has become shorter")
            at += sent
        copied += length
    return copied


@final
class CoreFile:
    """A dump that write_core() wrote; a context manager, open while it is read."""

    def __init__(self, path: Path) -> None:
        """Open *path*; raise ImageError if it is not such a dump."""
        self.path = path
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(path.open("rb"))
                elf = ELFFile(self._file)
                segments = list(elf.iter_segments())
            except (OSError, ELFError) as error:
                raise ImageError(f"{path} is not a dump: {error}") from error
            # As a number: pyelftools has names for those that it knows.
            self.machine = int.from_bytes(os.pread(self.fd, 2, _MACHINE_AT), "little")
            self.notes = [
                note
                for segment in segments
                if isinstance(segment, NoteSegment)
                for note in split_notes(segment.data())
            ]
            ours = find_note(self.notes, OUR_NAME)
            if ours is None:
                raise ImageError(f"{path} is not a dump of cvmlab: it has no page states")
            self.states = PageStates.of_note(ours)
            self._loads = [
                Piece(part["p_paddr"], part["p_offset"], part["p_filesz"], Holder.PRIVATE)
                for part in segments
                if part["p_type"] == "PT_LOAD"
            ]
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def content(self, reach: Reach) -> CoreContent:
        """Return what a dump of this dump has; offsets of its pieces are in this file."""
        wanted = self._loads if reach is Reach.ALL else list(self._shared())
        kept = [note for note in self.notes if note.name != OUR_NAME]
        states = self.states
        if reach is Reach.SHARED:
            kept = []  # CPU state, and what was found in private memory
            states = PageStates(states.slots, states.table, states.alias_bit, has_private=False)
        return CoreContent(self.machine, kept, states, extents(wanted))

    def _shared(self) -> Iterator[Piece]:
        found = pieces(self.states.slots, all_runs(self.states), Layout.SPLIT, Reach.SHARED)
        for piece in found:
            for load in self._loads:
                low, high = max(piece.gpa, load.gpa), min(piece.end, load.end)
                if low < high:
                    yield Piece(low, load.offset + low - load.gpa, high - low, Holder.PRIVATE)


def all_runs(states: PageStates) -> Iterator[PageRun]:
    """Yield the runs of equal state of the whole table."""
    return runs_of([(0, states.table)], 0, len(states.table))
