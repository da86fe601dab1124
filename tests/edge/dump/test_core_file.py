# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps from memory files, and dumps of dumps."""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cvmlab.base.errors import ImageError
from cvmlab.dump.contents import Holder, Reach, extents, pieces
from cvmlab.dump.core_file import CoreContent, CoreFile, write_core
from cvmlab.dump.kdump import DESCRIPTOR, ZLIB, kdump_layout
from cvmlab.dump.kdump_file import is_kdump, read_notes, write_kdump
from cvmlab.dump.notes import Note, PageStates
from cvmlab.dump.saved_states import alias_bit_of, load_states, save_states, sidecar_of
from cvmlab.memory.ranges import Slot
from cvmlab.memory.states import Layout, PageState
from cvmlab.memory.table import runs_of


PAGE = 4096
PAGES = 64
SLOTS = (Slot(0, 0, 32 * PAGE), Slot(1 << 32, 32 * PAGE, 32 * PAGE))
NOTES = [Note(b"CORE", 1, b"registers"), Note(b"VMCOREINFO", 0, b"OSRELEASE=1\n")]


@dataclass
class Guest:
    """Two memory files and their table: private, shared, pending and poisoned pages."""

    private: int
    shared: int
    table: "np.ndarray[tuple[int], np.dtype[np.uint8]]"

    def content(self, reach: Reach) -> CoreContent:
        runs = runs_of([(0, self.table)], 0, PAGES)
        found = pieces(SLOTS, runs, Layout.SPLIT, reach)
        states = PageStates(SLOTS, self.table, 1 << 51, reach is Reach.ALL)
        return CoreContent(62, NOTES, states, extents(found))

    @property
    def files(self) -> dict[Holder, int]:
        return {Holder.PRIVATE: self.private, Holder.SHARED: self.shared}


def of_page(page: int, kind: str) -> bytes:
    return f"{kind} {page}".encode().ljust(PAGE, b".")


@pytest.fixture
def guest() -> Iterator[Guest]:
    table = np.zeros(PAGES, np.uint8)
    table[:20], table[20:24], table[30:40], table[63] = 1, 2, 1, 3
    fds = os.memfd_create("private"), os.memfd_create("shared")
    for fd in fds:
        os.ftruncate(fd, PAGES * PAGE)
    for page, state in enumerate(table.tolist()):
        if state in (1, 2) and page != 5:  # page 5 was never written
            kind = PageState(state).word
            os.pwrite(fds[state - 1], of_page(page, kind), page * PAGE)
    yield Guest(*fds, table)
    for fd in fds:
        os.close(fd)


def page_in(core: CoreFile, gpa: int) -> bytes | None:
    """Return the page at *gpa*, None if the dump has none."""
    for extent in core.content(Reach.ALL).extents:
        for piece in extent.pieces:
            if piece.gpa <= gpa < piece.end:
                return os.pread(core.fd, PAGE, piece.offset + gpa - piece.gpa)
    return None


def test_a_dump_has_each_page_of_its_file(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "core"
    write_core(path, guest.content(Reach.ALL), guest.files)
    with CoreFile(path) as core:
        assert core.machine == 62
        assert core.notes[:2] == NOTES
        assert core.states.table.tolist() == guest.table.tolist()
        for page, state in enumerate(guest.table.tolist()):
            gpa = page * PAGE if page < 32 else (1 << 32) + (page - 32) * PAGE
            there = state in (1, 2) and page != 5
            kind = PageState(state).word
            assert page_in(core, gpa) == (of_page(page, kind) if there else bytes(PAGE)), page
        assert page_in(core, 32 * PAGE) is None


def test_what_has_no_content_takes_no_room(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "core"
    copied = write_core(path, guest.content(Reach.ALL), guest.files)
    used = int(np.count_nonzero((guest.table == 1) | (guest.table == 2))) - 1
    assert copied == used * PAGE
    assert path.stat().st_blocks * 512 <= copied + 2 * PAGE < path.stat().st_size
    # And it gave none to the memory files.
    assert os.fstat(guest.private).st_blocks * 512 == (used - 4) * PAGE


def test_without_private_memory_nothing_of_it_is_in_the_file(guest: Guest, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    write_core(whole, guest.content(Reach.ALL), guest.files)
    write_core(shared, guest.content(Reach.SHARED), guest.files)
    assert b"shared 21" in shared.read_bytes()
    assert b"private" not in shared.read_bytes()
    assert b"private 7" in whole.read_bytes()  # control
    with CoreFile(shared) as core:
        assert page_in(core, 21 * PAGE) == of_page(21, "shared")
        assert page_in(core, 7 * PAGE) is None
        assert core.states.state_of(7 * PAGE) is PageState.PRIVATE
        assert not core.states.has_private


def test_a_dump_of_a_dump_leaves_private_memory_out(guest: Guest, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    write_core(whole, guest.content(Reach.ALL), guest.files)
    with CoreFile(whole) as core:
        write_core(shared, core.content(Reach.SHARED), {Holder.PRIVATE: core.fd})
    assert b"shared 21" in shared.read_bytes()
    assert b"private" not in shared.read_bytes()
    assert b"registers" not in shared.read_bytes()


def test_a_compressed_dump_has_the_same_pages(guest: Guest, tmp_path: Path) -> None:
    path, packed = tmp_path / "core", tmp_path / "packed"
    write_core(path, guest.content(Reach.ALL), guest.files)
    with CoreFile(path) as core:
        assert write_kdump(packed, core.content(Reach.ALL), core.fd) == PAGES
        layout = kdump_layout(core.content(Reach.ALL).extents)
    data = packed.read_bytes()
    described = np.frombuffer(data, DESCRIPTOR, PAGES, layout.descriptors_at)
    for page, one in enumerate(described):
        raw = data[one["offset"] : one["offset"] + one["size"]]
        content = zlib.decompress(raw) if one["flags"] == ZLIB else raw
        state = PageState(int(guest.table[page]) & 3)
        there = state in (PageState.PRIVATE, PageState.SHARED) and page != 5
        assert content == (of_page(page, state.word) if there else bytes(PAGE)), page
    assert len(set(described["offset"][40:63].tolist())) == 1  # zeros share one place
    assert is_kdump(packed)
    assert not is_kdump(path)
    assert read_notes(packed)[:2] == NOTES


def test_page_states_are_beside_the_dump_for_numpy(guest: Guest, tmp_path: Path) -> None:
    dump = tmp_path / "core"
    states = guest.content(Reach.ALL).states
    assert alias_bit_of(dump) == 0
    save_states(sidecar_of(dump), states)
    read = load_states(dump)
    assert (read.slots, read.alias_bit, read.has_private) == (SLOTS, 1 << 51, True)
    assert read.table.tolist() == guest.table.tolist()
    assert alias_bit_of(dump) == 1 << 51


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is not a dump"),
        (b"KDUMP   ", "is not a dump"),
        (struct.pack("<16sHH", b"\x7fELF\2\1\1", 4, 62), "is not a dump"),
    ],
)
def test_what_is_no_dump_is_an_error(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ImageError, match=problem):
        CoreFile(tmp_path / "file")
