# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows of stacks become chains of calls: by ORC, by frame pointers, by a scan; or they end."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest

from cvmlab.memory.stacks import STACK_SPAN, STACK_WORDS, StackWindow
from cvmlab.unwind import orc
from cvmlab.unwind.chain import MAX_CALLS, CodePlace, Method, Unwinder
from cvmlab.unwind.code import Code


TEXT = 0xFFFF_FFFF_8100_0000
FUNCTION = 0x100  # bytes of each function below
CALL = 0x20  # where each calls, and CALL + 5 is where the call returns to


def ret(function: int) -> int:
    """Where the call in *function* returns to."""
    return TEXT + function * FUNCTION + CALL + 5


def text(functions: int) -> bytes:
    body = bytearray(b"\x90" * FUNCTION)
    body[CALL] = 0xE8
    return bytes(body) * functions


def flags(sp_reg: int, bp_reg: int, kind: int, *, signal: bool = False) -> int:
    return sp_reg | bp_reg << 4 | kind << 8 | signal << 11


def table(rows: Sequence[tuple[int, int, int]]) -> orc.OrcTable:
    """Return the table with a row (sp_offset, bp_offset, flags) for each function."""
    # Rows of functions that nothing here is in, so that the format can be told.
    rows = [*rows, *[(8, 0, flags(5, 0, 2))] * 16]
    at = 0xFFFF_FFFF_8300_0000
    places = [TEXT + number * FUNCTION for number in range(len(rows))]
    ips = b"".join(
        struct.pack("<i", place - (at + 4 * number)) for number, place in enumerate(places)
    )
    found = orc.read(ips, at, b"".join(struct.pack("<hhH", *row) for row in rows))
    assert found is not None
    return found


def window(words: Sequence[int], pc: int = TEXT + 4, frame: int = 0) -> StackWindow:
    return StackWindow(pc, frame, np.array(words, np.uint64))


def unwinder(*rows: tuple[int, int, int], slide: int = 0) -> Unwinder:
    return Unwinder(Code(((TEXT, text(len(rows) + 1)),), table(rows)), slide)


SP_CALL = flags(5, 0, 2)
END = flags(0, 0, 1)


def test_frames_are_followed_to_the_end_of_the_stack() -> None:
    words = [0, ret(1), 0, 0, ret(2), ret(3), ret(0), ret(0)]
    found = unwinder((16, 0, SP_CALL), (24, 0, SP_CALL), (8, 0, SP_CALL), (0, 0, END)).unwind(
        window(words)
    )
    assert found.addresses == (TEXT + 4, ret(1), ret(2), ret(3))
    assert set(found.methods) == {Method.ORC}
    assert not found.is_scan


def test_a_kernel_that_kaslr_has_moved_is_the_same() -> None:
    slide = 0x1E20_0000
    words = [0, ret(1) + slide]
    found = unwinder((16, 0, SP_CALL), (0, 0, END), slide=slide).unwind(
        window(words, TEXT + 4 + slide)
    )
    assert found.addresses == (TEXT + 4 + slide, ret(1) + slide)


def test_a_frame_by_the_frame_pointer_that_a_callee_has_saved() -> None:
    # 0 saves the frame pointer below its return address; 1 is addressed by it.
    rows = ((24, -16, flags(5, 1, 2)), (16, -16, flags(4, 1, 2)), (0, 0, END))
    words = [0, 40, ret(1), 0, 0, 0, ret(2)]
    assert unwinder(*rows).unwind(window(words)).addresses == (TEXT + 4, ret(1), ret(2))


def test_saved_registers_lead_to_the_interrupted_instruction() -> None:
    regs = [0] * 21
    regs[4], regs[16], regs[19] = 0, TEXT + FUNCTION + 0x80, 8 * 22
    rows = ((8, 0, flags(5, 0, 3, signal=True)), (8, 0, SP_CALL), (0, 0, END))
    found = unwinder(*rows).unwind(window([0, *regs, ret(2)]))
    assert found.addresses == (TEXT + 4, TEXT + FUNCTION + 0x80, ret(2))


def test_without_a_table_frame_pointers_are_followed() -> None:
    words = [0, 40, ret(1), 0, 0, 72, ret(2), 0, 0, 0, ret(3)]
    made = Unwinder(Code(((TEXT, text(4)),)))
    found = made.unwind(window(words, frame=8))
    assert found.addresses == (TEXT + 4, ret(1), ret(2), ret(3))
    assert set(found.methods[1:]) == {Method.FRAME_POINTER}


def test_what_no_table_knows_is_scanned_and_called_a_scan() -> None:
    # A module's code: only words that follow a call can be where one returns to.
    module = 0xFFFF_FFFF_C000_0000
    words = [TEXT + 4, ret(1), ret(2) + 1, ret(0)]
    made = unwinder((8, 0, SP_CALL), (16, 0, SP_CALL), (0, 0, END))
    found = made.unwind(window(words, module + 0x10))
    assert found.addresses[:2] == (module + 0x10, ret(1))
    assert found.methods[1] is Method.SCAN
    assert found.is_scan


def test_addresses_of_modules_are_code_too() -> None:
    module = 0xFFFF_FFFF_C000_0000
    made = unwinder((16, 0, SP_CALL), (0, 0, END))
    known = Unwinder(
        made.code, 0, lambda at: CodePlace(Code(), module) if module <= at < module + 4096 else None
    )
    found = known.unwind(window([0, module + 0x20, ret(1)]))
    assert found.addresses == (TEXT + 4, module + 0x20, ret(1))
    assert found.methods == (Method.ORC, Method.ORC, Method.SCAN)


@pytest.mark.parametrize("seed", range(40))
def test_a_hostile_window_ends_and_names_only_code(seed: int) -> None:
    random = np.random.default_rng(seed)
    kinds = [flags(int(sp), int(bp), int(kind), signal=bool(signal)) for sp, bp, kind, signal in
             random.integers(0, [16, 16, 8, 2], (12, 4))]  # fmt: skip
    rows = [(int(random.integers(-64, 512)), int(random.integers(-64, 64)), one) for one in kinds]
    made = unwinder(*rows)
    sources = [
        np.array([ret(i) for i in range(12)], np.uint64),
        random.integers(0, STACK_SPAN + 64, 12).astype(np.uint64),
        random.integers(0, 1 << 63, 12).astype(np.uint64),
    ]
    words = np.array([random.choice(sources[random.integers(3)]) for _ in range(STACK_WORDS)])
    for frame in (0, 8, 7, STACK_SPAN):
        pc = int(random.choice(sources[0]))
        found = made.unwind(StackWindow(pc, frame, words.astype(np.uint64)))
        assert len(found.addresses) <= MAX_CALLS
        assert all(address in made.code for address in found.addresses)


def test_a_loop_of_frames_ends() -> None:
    # Frames must go up the stack: this one leads to itself.
    words = [8, ret(0)]
    assert len(unwinder((0, 0, flags(9, 0, 2))).unwind(window(words)).addresses) <= 3
