# SPDX-License-Identifier: GPL-2.0-or-later
"""The code of a kernel as its file has it: where calls are, and the ORC tables.  Pure."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cvmlab.unwind import orc as tables
from cvmlab.unwind.orc import OrcTable


Addresses = npt.NDArray[np.uint64]

_SHF_EXECINSTR = 4
_CALL_LENGTH = 5  # e8 and a displacement of 32 bits
_LONGEST_CALL = 7  # ff /2 with SIB and displacement


@dataclass(frozen=True)
class Code:
    """One kernel.  ``parts`` are its executable sections by address; addresses are linked ones.

    ``found_returns`` are its ``returns``, if somebody has looked for them before.
    """

    parts: tuple[tuple[int, bytes], ...] = ()
    orc: OrcTable | None = None
    found_returns: Addresses | None = field(default=None, compare=False)

    def __contains__(self, address: int) -> bool:
        return any(start <= address < start + len(data) for start, data in self.parts)

    def follows_call(self, address: int) -> bool:
        """Say whether the instruction before *address* calls: then *address* can be a return's."""
        for start, data in self.parts:
            end = address - start
            if 0 < end <= len(data):
                return _ends_in_call(data[max(0, end - _LONGEST_CALL) : end])
        return False

    @cached_property
    def returns(self) -> Addresses:
        """Where direct calls return to, sorted.

        They are found without disassembling: a byte e8 whose displacement leads to where many others
        lead, or at least into this code at an aligned address, is hardly ever anything else.
        """
        if self.found_returns is not None:
            return self.found_returns
        found = [_direct_calls(start, data, self._bounds) for start, data in self.parts]
        joined = np.concatenate([np.empty(0, np.uint64), *found])
        return np.unique(joined)

    @property
    def _bounds(self) -> tuple[int, int]:
        starts = [start for start, _ in self.parts]
        ends = [start + len(data) for start, data in self.parts]
        return min(starts, default=0), max(ends, default=0)


def _direct_calls(start: int, data: bytes, bounds: tuple[int, int]) -> Addresses:
    code = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(code[: max(len(code) - 4, 0)] == 0xE8)
    shifts = np.array([0, 8, 16, 24])
    words = (code[at[:, None] + np.arange(1, 5)].astype(np.int64) << shifts).sum(axis=1)
    distance = np.where(words >= 1 << 31, words - (1 << 32), words)
    after = at + _CALL_LENGTH
    target = after + distance + np.int64(start - bounds[0])
    # Functions begin at multiples of 16 (CONFIG_FUNCTION_ALIGNMENT), or behind padding for patches.
    inside = (target >= 0) & (target < bounds[1] - bounds[0]) & (target % 4 == 0)
    returns: Addresses = np.uint64(start) + after[inside].astype(np.uint64)
    return returns


def _ends_in_call(before: bytes) -> bool:
    """Say whether *before* may end in a call: e8, or ff /2 with any operand (SDM volume 2)."""
    if len(before) >= _CALL_LENGTH and before[-_CALL_LENGTH] == 0xE8:
        return True
    for length in range(2, min(len(before), _LONGEST_CALL) + 1):
        if before[-length] == 0xFF and _call_length(before[len(before) - length :]) == length:
            return True
    return False


def _call_length(code: bytes) -> int:
    """Return the length of the instruction ff /2 at the start of *code*, 0 if it is none."""
    mode, kind, base = code[1] >> 6, code[1] >> 3 & 7, code[1] & 7
    if kind != 2:
        return 0
    sib = 1 if mode != 3 and base == 4 else 0
    if mode == 0 and base == 5:
        return 6
    return 2 + sib + {0: 0, 1: 1, 2: 4, 3: 0}[mode]


def from_elf(content: bytes) -> Code:
    """Read a vmlinux, stripped or not; what is no ELF file has no code."""
    try:
        elf = ELFFile(io.BytesIO(content))
        sections = {section.name: section for section in elf.iter_sections()}
        parts = tuple(
            (section["sh_addr"], section.data())
            for section in sections.values()
            if section["sh_flags"] & _SHF_EXECINSTR and section["sh_addr"]
        )
        ips, entries = sections.get(".orc_unwind_ip"), sections.get(".orc_unwind")
        table = None
        if ips is not None and entries is not None:
            table = tables.read(ips.data(), ips["sh_addr"], entries.data())
    except ELFError:
        return Code()
    return Code(parts, table)


class LazyCode:
    """Code that is read when it is first asked for."""

    def __init__(self, loader: Callable[[], Code]) -> None:
        self._loader = loader
        self._code: Code | None = None

    def get(self) -> Code:
        if self._code is None:
            self._code = self._loader()
        return self._code
