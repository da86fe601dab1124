# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows of a stock kernel that booted as a TD, with the rows of its ORC tables that they need.

The vector was made from Debian's 6.12 cloud kernel.  The same rows in the formats of other kernels
must lead to the same functions.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvmlab.memory.stacks import StackWindow
from cvmlab.unwind import orc
from cvmlab.unwind.chain import Method, Unwinder
from cvmlab.unwind.code import Code


VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "orc-6.12.json").read_text()
)
IPS_AT = 0xFFFF_FFFF_8300_0000
CALL, END = 2, 1


def since_6_4(flags: int) -> int:
    return flags


def until_6_2(flags: int) -> int:
    """Types begin with CALL, and the end of the stack has a bit and no register."""
    kind = flags >> 8 & 7
    if kind < CALL:
        return 0x400 if kind == END else 0
    return flags & 0xFF | kind - CALL << 8


def with_new_registers(flags: int) -> int:
    numbers = {0: 0, 1: 8, 4: 4, 5: 3, 8: 10, 9: 9}
    return flags & ~0xFF | numbers[flags & 0xF] | numbers[flags >> 4 & 0xF] << 4


Format = Callable[[int], int]
FORMATS = pytest.mark.parametrize("convert", [since_6_4, until_6_2, with_new_registers])


def kernel(convert: Format) -> Code:
    rows = sorted((int(address), row) for address, row in VECTOR["orc"].items())
    ips = b"".join(
        struct.pack("<i", address - (IPS_AT + 4 * at)) for at, (address, _) in enumerate(rows)
    )
    entries = b"".join(struct.pack("<hhH", sp, bp, convert(flags)) for _, (sp, bp, flags) in rows)
    table = orc.read(ips, IPS_AT, entries)
    assert table is not None
    before = ((int(address), bytes.fromhex(code)) for address, code in VECTOR["before"].items())
    return Code(tuple((address - len(code), code + b"\x90") for address, code in before), table)


def window_of(raw: dict[str, Any]) -> StackWindow:
    words = np.zeros(raw["count"], np.uint64)
    for index, word in raw["words"].items():
        words[int(index)] = word
    return StackWindow(raw["pc"], raw["frame"], words)


@pytest.mark.fault("V3")
@FORMATS
@pytest.mark.parametrize("number", range(len(VECTOR["windows"])))
def test_each_window_leads_from_the_tdcall_to_the_start_of_the_kernel(
    number: int, convert: Format
) -> None:
    raw = VECTOR["windows"][number]
    chain = Unwinder(kernel(convert)).unwind(window_of(raw))
    assert len(chain.addresses) == len(raw["functions"])
    assert set(chain.methods) == {Method.ORC}
    assert raw["functions"][0] == "__tdcall_saved_ret"
    assert raw["functions"][-1] in {"ret_from_fork_asm", "common_startup_64"}


@FORMATS
def test_a_window_that_is_cut_or_shuffled_still_ends(convert: Format) -> None:
    code, random = kernel(convert), np.random.default_rng(1)
    for raw in VECTOR["windows"]:
        whole = window_of(raw)
        for length in range(0, len(whole.words), 16):
            cut = StackWindow(whole.pc, whole.frame, whole.words[:length])
            assert all(address in code for address in Unwinder(code).unwind(cut).addresses)
        for _ in range(16):
            words = random.permutation(whole.words)
            found = Unwinder(code).unwind(StackWindow(whole.pc, whole.frame, words))
            assert all(address in code for address in found.addresses)


def test_tables_in_no_known_format_are_not_used() -> None:
    junk = np.random.default_rng(2).integers(0, 256, 6 * 64, np.uint8).tobytes()
    assert orc.read(bytes(4 * 64), IPS_AT, bytes(6 * 64)) is None
    assert orc.read(bytes(4 * 64), IPS_AT, junk) is None
    assert orc.read(b"", IPS_AT, b"") is None
