# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of stack windows: what the guest's stack held when a record was made.

A record names a window by its number, from 1 on.  Offsets and numbers are those of
plugin/core/stacks.h; a test compares them with the compiled core.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import numpy.typing as npt


STACKS_MAGIC = 0x314B434154534D52
STACKS_VERSION = 1
STACKS_OFFSET = 4096
STACKS = 2048
STACK_WORDS = 508
STACK_SPAN = 16384  # from here on it is another stack

HEADER = np.dtype(
    {
        "names": ["magic", "version", "slot_size", "slots", "used", "missed"],
        "formats": ["<u8", "<u4", "<u4", "<u8", "<u8", "<u8"],
        "offsets": [0, 8, 12, 16, 24, 32],
        "itemsize": 40,
    }
)
STACK = np.dtype(
    {
        "names": ["hash", "pc", "frame", "words", "word"],
        "formats": ["<u8", "<u8", "<u4", "<u4", f"({STACK_WORDS},)<u8"],
        "offsets": [0, 8, 16, 20, 32],
        "itemsize": 4096,
    }
)
STACKS_BYTES = STACKS_OFFSET + STACKS * STACK.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class StackWindow:
    """What the guest's stack held, from the stack pointer upwards.

    ``words`` are addresses of code, or distances from the stack pointer that stand for addresses in
    this stack, or 0 for anything else.  ``frame`` is the frame pointer as such a distance, or 0.
    """

    pc: int
    frame: int
    words: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, slot: np.void) -> Self:
        """Read a slot, which another process has written."""
        count = min(int(slot["words"]), STACK_WORDS)
        frame = int(slot["frame"])
        return cls(
            int(slot["pc"]), frame if frame <= STACK_SPAN else 0, slot["word"][:count].copy()
        )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The windows that a run left; ``missed`` counts records for which there was no space."""

    by_number: dict[int, StackWindow]
    missed: int = 0

    @classmethod
    def none(cls) -> Self:
        return cls({})

    @classmethod
    def read(cls, fd: int, numbers: Iterable[int]) -> Self:
        """Read those of *numbers* that are in the file *fd*."""
        header = np.frombuffer(os.pread(fd, HEADER.itemsize, 0), HEADER)[0]
        if header["magic"] != STACKS_MAGIC or header["version"] != STACKS_VERSION:
            return cls.none()
        found = {}
        for number in numbers:
            slot = _slot(fd, number)
            if slot is not None and slot["hash"]:
                found[number] = StackWindow.of(slot)
        return cls(found, int(header["missed"]))


def _slot(fd: int, number: int) -> np.void | None:
    if not 1 <= number <= STACKS:
        return None
    data = os.pread(fd, STACK.itemsize, STACKS_OFFSET + (number - 1) * STACK.itemsize)
    slot: np.void | None = np.frombuffer(data, STACK)[0] if len(data) == STACK.itemsize else None
    return slot
