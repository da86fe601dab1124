# SPDX-License-Identifier: GPL-2.0-or-later
"""The ORC tables of an x86-64 kernel: for each instruction, where its caller's frame is.  Pure.

The format is that of arch/x86/include/asm/orc_types.h.  It changed three times, and no file says
which one it has, so that is told by what nearly every entry must be: a plain call frame that is
addressed by the stack pointer.

* until 6.2  type in 2 bits, end of the stack in bit 10
* 6.3        type in 2 bits, signal in bit 10, end in bit 11 (one release, not read here)
* since 6.4  type in 3 bits, signal in bit 11; "undefined" and "end" are types
* later      as since 6.4, with other numbers of registers
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt


_ENTRY: Final = np.dtype([("sp_offset", "<i2"), ("bp_offset", "<i2"), ("flags", "<u2")])
ENTRY_BYTES: Final = _ENTRY.itemsize
_MIN_ENTRIES: Final = 16
_MIN_SHARE: Final = 0.5  # of the entries that must be a plain call frame


class Base(IntEnum):
    """What an offset counts from."""

    UNDEFINED = 0
    PREV_SP = 1  # the caller's stack pointer
    BP = 2
    SP = 3
    BP_INDIRECT = 4
    SP_INDIRECT = 5
    OTHER = 6  # a register that nobody saved


class FrameType(IntEnum):
    UNDEFINED = 0
    END_OF_STACK = 1
    CALL = 2
    REGS = 3  # struct pt_regs
    REGS_PARTIAL = 4  # the part of it that the processor pushes


# The numbers of registers: until today's kernels, and since the tables have AX.
_OLD_BASES: Final = {0: Base.UNDEFINED, 1: Base.PREV_SP, 4: Base.BP, 5: Base.SP,
                     8: Base.BP_INDIRECT, 9: Base.SP_INDIRECT}  # fmt: skip
_NEW_BASES: Final = {0: Base.UNDEFINED, 3: Base.SP, 4: Base.BP, 8: Base.PREV_SP,
                     9: Base.SP_INDIRECT, 10: Base.BP_INDIRECT}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """How to get from one instruction to its caller's."""

    type: FrameType
    sp_base: Base
    sp_offset: int
    bp_base: Base
    bp_offset: int
    signal: bool  # the caller's address is that of the interrupted instruction


@dataclass(frozen=True, slots=True, eq=False)
class OrcTable:
    """All rows; ``addresses`` ascend and are those of the linked kernel."""

    addresses: npt.NDArray[np.uint64]
    entries: npt.NDArray[np.void]
    bases: dict[int, Base]
    old_types: bool

    def find(self, address: int) -> Row | None:
        """Return the row for the instruction at *address*, None if there is none."""
        if not 0 <= address < 1 << 64:
            return None
        index = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        return self._row(self.entries[index]) if index >= 0 else None

    def _row(self, entry: np.void) -> Row | None:
        flags = int(entry["flags"])
        sp_base = self.bases.get(flags & 0xF, Base.OTHER)
        if self.old_types:
            kind, signal = _old_type(flags, sp_base)
        else:
            kind, signal = flags >> 8 & 7, bool(flags & 0x800)
        if kind not in tuple(FrameType):
            return None
        return Row(
            FrameType(kind), sp_base, int(entry["sp_offset"]),
            self.bases.get(flags >> 4 & 0xF, Base.OTHER), int(entry["bp_offset"]), signal,
        )  # fmt: skip


def _old_type(flags: int, sp_base: Base) -> tuple[int, bool]:
    if sp_base is Base.UNDEFINED:
        return (FrameType.END_OF_STACK if flags & 0x400 else FrameType.UNDEFINED), False
    kind = (flags >> 8 & 3) + FrameType.CALL
    # There was no bit for it: an interrupted instruction is the one after saved registers.
    return kind, kind != FrameType.CALL


def read(ips: bytes, ips_at: int, entries: bytes) -> OrcTable | None:
    """Return the table of the sections .orc_unwind_ip, at address *ips_at*, and .orc_unwind.

    Return None if they are in no known format.
    """
    count = min(len(ips) // 4, len(entries) // _ENTRY.itemsize)
    if count < _MIN_ENTRIES:
        return None
    rows = np.frombuffer(entries, _ENTRY, count)
    # Each word is the distance from itself.
    places = np.uint64(ips_at) + 4 * np.arange(count, dtype=np.uint64)
    addresses = places + np.frombuffer(ips, "<i4", count).astype(np.int64).view(np.uint64)
    order = np.argsort(addresses, kind="stable")
    found = _format(rows)
    return None if found is None else OrcTable(addresses[order], rows[order], *found)


def read_like(
    known: OrcTable, addresses: npt.NDArray[np.uint64], entries: bytes
) -> OrcTable | None:
    """Return the table of a module of the kernel with the table *known*; None if it is damaged."""
    if len(entries) < len(addresses) * _ENTRY.itemsize:
        return None
    rows = np.frombuffer(entries, _ENTRY, len(addresses))
    order = np.argsort(addresses, kind="stable")
    return OrcTable(addresses[order], rows[order], known.bases, known.old_types)


def _format(rows: npt.NDArray[np.void]) -> tuple[dict[int, Base], bool] | None:
    used = rows["flags"][rows["flags"] & 0xF != 0]
    for bases, stack_pointer in ((_OLD_BASES, 5), (_NEW_BASES, 3)):
        based = used[used & 0xF == stack_pointer]
        if not len(used) or len(based) / len(used) < _MIN_SHARE:
            continue
        for types_at, old_types in ((0x000, True), (0x200, False)):
            if np.mean(based & 0x700 == types_at) >= _MIN_SHARE:
                return bases, old_types
    return None
