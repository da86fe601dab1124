# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guest has loaded its modules, and the functions of a module's file.  Pure.

A loaded module has one area of code.  The kernel puts the file's executable sections into it in
order (layout_sections() in kernel/module/main.c), so an address in it names a section and a place.
"""

import io
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from cvmlab.unwind import orc
from cvmlab.unwind.code import Code
from cvmlab.unwind.orc import OrcTable


_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_INIT: Final = ".init"
_GENERATED: Final = ("__pfx_", "__cfi_", ".L", "$")
_NAMED_TYPES: Final = ("STT_FUNC", "STT_NOTYPE")


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A line of /proc/modules: where a module is."""

    name: str
    size: int
    address: int

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


def find(modules: Iterable[LoadedModule], address: int) -> LoadedModule | None:
    """Return the module that holds *address*.

    The size counts areas that may be elsewhere: of several that could hold it, the last one does.
    """
    holding = (one for one in modules if one.address and address in one)
    return max(holding, key=lambda one: one.address, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class ModuleCode:
    """A module's file: its functions and its code, by offset in its area of code.

    ``starts`` ascend; ``names`` belong to them.
    """

    code: Code
    starts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def call(self, offset: int) -> str | None:
        """Return ``function+0x12`` for the place at *offset*."""
        at = bisect_right(self.starts, offset) - 1
        if at < 0 or offset not in self.code:
            return None
        return f"{self.names[at]}+{offset - self.starts[at]:#x}"


def read(content: bytes, kernel: OrcTable | None = None) -> ModuleCode | None:
    """Read a .ko file, decompressed; *kernel* is the table of its kernel.  None: it is damaged."""
    try:
        elf = ELFFile(io.BytesIO(content))
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return None
        places = _places(elf)
        parts = tuple((place, elf.get_section(number).data()) for number, place in places.items())
        symbols = list(table.iter_symbols())
        table_of_calls = None if kernel is None else _orc(elf, symbols, places, kernel)
        found = _functions(symbols, places)
    except (ELFError, struct.error, UnicodeDecodeError, IndexError):
        return None
    starts = sorted(found)
    names = tuple(found[start] for start in starts)
    return ModuleCode(Code(parts, table_of_calls), tuple(starts), names)


def _functions(symbols: Sequence[Any], places: Mapping[int, int]) -> dict[int, str]:
    return {
        places[symbol["st_shndx"]] + symbol["st_value"]: symbol.name
        for symbol in symbols
        if symbol["st_shndx"] in places
        and symbol["st_info"]["type"] in _NAMED_TYPES
        and symbol.name
        and not symbol.name.startswith(_GENERATED)
    }


def _orc(
    elf: ELFFile, symbols: Sequence[Any], places: Mapping[int, int], kernel: OrcTable
) -> OrcTable | None:
    """Return the table of a module: the relocations say which instruction each entry is of."""
    relocations = elf.get_section_by_name(".rela.orc_unwind_ip")
    entries = elf.get_section_by_name(".orc_unwind")
    if not isinstance(relocations, RelocationSection) or entries is None:
        return None
    data, size = entries.data(), orc.ENTRY_BYTES
    addresses, kept = [], []
    for relocation in relocations.iter_relocations():
        symbol = symbols[relocation["r_info_sym"]]
        place = places.get(symbol["st_shndx"])
        at = relocation["r_offset"] // 4 * size
        if place is not None and at + size <= len(data):
            addresses.append(place + symbol["st_value"] + relocation["r_addend"])
            kept.append(data[at : at + size])
    return orc.read_like(kernel, np.array(addresses, np.int64).view(np.uint64), b"".join(kept))


def _places(elf: ELFFile) -> dict[int, int]:
    """Return where each executable section is in the area of code, by section number."""
    places, end = {}, 0
    wanted = _SHF_ALLOC | _SHF_EXECINSTR
    for number, section in enumerate(elf.iter_sections()):
        if section["sh_flags"] & wanted == wanted and not section.name.startswith(_INIT):
            alignment = max(section["sh_addralign"], 1)
            end = -(-end // alignment) * alignment
            places[number] = end
            end += section["sh_size"]
    return places
