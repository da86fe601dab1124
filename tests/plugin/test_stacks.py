# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows of guest stacks: what is kept of a stack, once for each content, and never too much."""

import ctypes as c
import os
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cvmlab.memory.stacks import (
    HEADER,
    STACK_SPAN,
    STACK_WORDS,
    STACKS,
    STACKS_BYTES,
    STACKS_MAGIC,
    StackWindow,
    Windows,
)
from tests.plugin.core import Library, MappedFile


CODE, CODE_END = 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_FF00_0000
SP = 0xFFFF_C900_0001_3D80
_U64P = c.POINTER(c.c_uint64)


class _Input(c.Structure):
    _fields_ = (
        ("pc", c.c_uint64), ("sp", c.c_uint64), ("fp", c.c_uint64),
        ("code_start", c.c_uint64), ("code_end", c.c_uint64),
        ("piece", _U64P * 2), ("words", c.c_size_t * 2),
    )  # fmt: skip


class _Stacks(c.Structure):
    _fields_ = (
        ("header", c.c_void_p),
        ("slots", c.c_void_p),
        ("hashes", c.c_uint64 * STACKS),
    )


Make = Callable[..., "Stacks"]


class Stacks:
    """One struct RmemStacks over a file of its own, or over that of *heir_of*."""

    def __init__(self, library: Library, heir_of: "Stacks | None" = None) -> None:
        self.c = library.c
        self.c.rmem_stacks_init.restype = c.c_char_p
        self.c.rmem_stacks_init.argtypes = [c.POINTER(_Stacks), c.c_void_p, c.c_size_t]
        self.c.rmem_stack_put.restype = c.c_uint32
        self.c.rmem_stack_put.argtypes = [c.POINTER(_Stacks), c.POINTER(_Input)]
        self.file: MappedFile = heir_of.file if heir_of else MappedFile(STACKS_BYTES)
        self.st = _Stacks()

    def start(self) -> str | None:
        fault = self.c.rmem_stacks_init(self.st, self.file.address, STACKS_BYTES)
        return None if fault is None else fault.decode()

    def put(self, *pieces: Sequence[int], pc: int = CODE, sp: int = SP, fp: int = 0) -> int:
        made = _Input(pc=pc, sp=sp, fp=fp, code_start=CODE, code_end=CODE_END)
        for number, piece in enumerate(pieces):
            made.piece[number] = (c.c_uint64 * len(piece))(*piece)
            made.words[number] = len(piece)
        return int(self.c.rmem_stack_put(self.st, made))

    def window(self, number: int) -> StackWindow:
        return Windows.read(self.file.fd, [number]).by_number[number]

    @property
    def header(self) -> np.void:
        header: np.void = self.file.bytes[: HEADER.itemsize].view(HEADER)[0]
        return header


@pytest.fixture
def make_stacks(library: Library) -> Make:
    """Make one that is set up: a test keeps it itself, so that its file is closed in time."""

    def make(heir_of: Stacks | None = None) -> Stacks:
        made = Stacks(library, heir_of)
        assert made.start() is None
        return made

    return make


def test_only_addresses_of_code_and_of_the_stack_are_kept(make_stacks: Make) -> None:
    stacks = make_stacks()
    secret = 0x1122_3344_5566_7788
    number = stacks.put([secret, CODE + 0x10, SP + 0x40, 3], [CODE_END, CODE + 8], fp=SP + 0x20)

    window = stacks.window(number)

    assert window.words.tolist() == [0, CODE + 0x10, 0x40, 0, 0, CODE + 8]
    assert (window.pc, window.frame) == (CODE, 0x20)
    assert secret.to_bytes(8, "little") not in stacks.file.bytes.tobytes()


def test_the_same_calls_are_one_window_whatever_they_work_on_and_wherever(
    make_stacks: Make,
) -> None:
    stacks = make_stacks()
    other = SP + 0x10_0000
    first = stacks.put([1, CODE + 0x10, SP + 0x40], fp=SP + 8)
    again = stacks.put([2, CODE + 0x10, other + 0x40], sp=other, fp=other + 8)
    different = stacks.put([CODE + 0x10, 1, SP + 0x40], fp=SP + 8)

    assert first == again != different
    assert int(stacks.header["used"]) == 2
    assert len({stacks.put([5], pc=CODE + pc) for pc in range(8)}) == 8


def test_a_frame_pointer_elsewhere_is_none(make_stacks: Make) -> None:
    stacks = make_stacks()
    for fp in (0, SP, SP - 8, SP + STACK_SPAN + 1, 2**64 - 1):
        assert stacks.window(stacks.put([CODE], fp=fp)).frame == 0


def test_a_window_has_an_end(make_stacks: Make) -> None:
    stacks = make_stacks()
    words = [CODE + i for i in range(512)]
    window = stacks.window(stacks.put(words, words))
    assert window.words.tolist() == words[:STACK_WORDS]
    assert stacks.window(stacks.put()).words.tolist() == []


def test_a_full_table_loses_windows_and_counts_them(make_stacks: Make) -> None:
    stacks = make_stacks()
    numbers = [stacks.put([CODE + i]) for i in range(3 * STACKS)]
    kept = [number for number in numbers if number]
    assert len(set(kept)) == len(kept) == int(stacks.header["used"]) < STACKS
    assert int(stacks.header["missed"]) == len(numbers) - len(kept)
    assert os.fstat(stacks.file.fd).st_size == STACKS_BYTES
    assert stacks.put([CODE]) == numbers[0]  # what is there is still found


def test_another_process_goes_on_with_the_windows_that_are_there(
    make_stacks: Make,
) -> None:
    stacks = make_stacks()
    first = stacks.put([CODE + 4])
    heir = make_stacks(stacks)
    assert heir.put([CODE + 4]) == first
    assert int(heir.header["used"]) == 1


@pytest.mark.parametrize("field", ["version", "slot_size", "slots"])
def test_a_file_of_another_version_is_refused(
    library: Library, make_stacks: Make, field: str
) -> None:
    stacks = make_stacks()
    stacks.header[field] += 1
    assert (
        Stacks(library, heir_of=stacks).start() == "the file of stack windows has another version"
    )


def test_without_a_file_nothing_is_kept(library: Library) -> None:
    assert Stacks(library).put([CODE]) == 0


def test_garbage_in_the_file_is_no_window(make_stacks: Make) -> None:
    stacks = make_stacks()
    number = stacks.put([CODE + 4])
    stacks.file.bytes[4096:] = 0xFF
    window = stacks.window(number)
    assert len(window.words) <= STACK_WORDS
    assert window.frame == 0
    assert Windows.read(stacks.file.fd, [0, STACKS + 1, 2**31]).by_number == {}
    stacks.header["magic"] = STACKS_MAGIC + 1
    assert Windows.read(stacks.file.fd, [number]).by_number == {}
