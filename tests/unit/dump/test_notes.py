# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes of a dump, and the page states among them."""

import numpy as np
import pytest

from cvmlab.base.errors import ImageError
from cvmlab.dump.notes import (
    OUR_NAME,
    PAGE_STATES,
    Note,
    PageStates,
    find_note,
    kernel_offset_of,
    release_of,
    split_notes,
)
from cvmlab.memory.ranges import Slot
from cvmlab.memory.states import LAUNCH_FLAG, PageState


COREINFO = Note(b"VMCOREINFO", 0, b"OSRELEASE=6.12.1-test\nNUMBER(phys_base)=-4096\n")
CPU = Note(b"CORE", 1, bytes(range(15)))
TABLE = np.array([1 | LAUNCH_FLAG, 2, 0, 3], np.uint8)
STATES = PageStates((Slot(0, 0, 8192), Slot(1 << 32, 8192, 8192)), TABLE, 1 << 51)


def test_notes_are_read_as_they_were_written() -> None:
    written = [CPU, COREINFO, STATES.note()]
    read = list(split_notes(b"".join(note.encode() for note in written)))
    assert read == written


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_a_note_that_is_cut_short_is_an_error(cut: int) -> None:
    data = CPU.encode()
    with pytest.raises(ImageError, match="cut short"):
        list(split_notes(data[:-cut]))
    assert list(split_notes(data)) == [CPU]


def test_page_states_are_found_by_address() -> None:
    read = PageStates.of_note(STATES.note())
    assert (read.slots, read.alias_bit, read.has_private) == (STATES.slots, 1 << 51, True)
    assert read.table.tolist() == TABLE.tolist()
    assert [read.state_of(gpa) for gpa in (0, 4097, 1 << 32, (1 << 32) + 4096)] == [
        PageState.PRIVATE, PageState.SHARED, PageState.PENDING, PageState.POISONED,
    ]  # fmt: skip
    with pytest.raises(IndexError, match="0x2000 is not guest RAM"):
        read.state_of(8192)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: b"\2" + data[1:], "have version 2, not 1"),
        (lambda data: data[:10], "make no sense"),
        (lambda data: data[:-3], "make no sense"),
        (lambda data: data[:65] + b"\xff" + data[66:], "end before the guest's memory"),
    ],
    ids=["version", "head", "table", "slot"],
)
def test_page_states_that_make_no_sense_are_an_error(change: object, problem: str) -> None:
    whole = STATES.note().content
    with pytest.raises(ImageError, match=problem):
        PageStates.of_note(Note(OUR_NAME, PAGE_STATES, change(whole)))  # type: ignore[operator]


def test_the_release_is_that_of_vmcoreinfo() -> None:
    assert release_of([CPU, COREINFO]) == "6.12.1-test"
    assert release_of([CPU]) is None
    assert release_of([Note(b"VMCOREINFO", 0, b"PAGESIZE=4096\n")]) is None
    assert find_note([CPU, COREINFO], b"CORE") is CPU


def test_kaslr_is_told_by_the_guest() -> None:
    """Documentation/admin-guide/kdump/vmcoreinfo.rst: KERNELOFFSET, in hex."""

    def moved(line: bytes) -> list[Note]:
        return [Note(b"VMCOREINFO", 0, b"OSRELEASE=6.12\n" + line)]

    assert kernel_offset_of(moved(b"KERNELOFFSET=1a000000\n")) == 0x1A000000
    assert kernel_offset_of(moved(b"")) is None
    assert kernel_offset_of([]) is None
    with pytest.raises(ImageError, match="KERNELOFFSET of 'far'"):
        kernel_offset_of(moved(b"KERNELOFFSET=far\n"))
