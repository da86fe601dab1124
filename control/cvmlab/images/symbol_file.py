# SPDX-License-Identifier: GPL-2.0-or-later
"""An ELF file that holds names of functions and nothing else, for a debugger.  Pure.

A distribution's kernel has no symbol table, but the names are in its kallsyms (kallsyms.py).
"""

import struct
from collections.abc import Iterator

from elftools.elf.enums import ENUM_E_MACHINE

from cvmlab.base.errors import ImageError
from cvmlab.images.symbols import Symbols
from cvmlab.profiles.architecture import Architecture


_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_ET_EXEC, _EV_CURRENT = 2, 1
_SHT_SYMTAB, _SHT_STRTAB, _SHT_NOBITS = 2, 3, 8
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_GLOBAL_FUNC = 1 << 4 | 2  # STB_GLOBAL, STT_FUNC
_SECTIONS = b"\0.text\0.symtab\0.strtab\0"
_TEXT, _STRTAB, _COUNT = 1, 3, 4  # numbers of sections


def function_names(symbols: Symbols, architecture: Architecture) -> bytes:
    """Return an ELF file that names *symbols* where they are; raise ImageError without any."""
    functions = list(_functions(symbols))
    if not functions:
        raise ImageError("the kernel has no names of functions")
    strings, table = bytearray(_SECTIONS), bytearray(_SYM.pack(0, 0, 0, 0, 0, 0))
    for address, size, name in functions:
        table += _SYM.pack(len(strings), _GLOBAL_FUNC, 0, _TEXT, address, size)
        strings += name.encode() + b"\0"
    start, (last, size, _) = functions[0][0], functions[-1]
    table_at = _EHDR.size + _COUNT * _SHDR.size
    strings_at = table_at + len(table)
    name_at = _SECTIONS.index
    return b"".join([
        _EHDR.pack(
            _IDENT, _ET_EXEC, ENUM_E_MACHINE[architecture.kernel.elf_machines[0]], _EV_CURRENT, 0, 0,
            _EHDR.size, 0, _EHDR.size, 0, 0, _SHDR.size, _COUNT, _STRTAB,
        ),
        _SHDR.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        _SHDR.pack(
            name_at(b".text"), _SHT_NOBITS, _SHF_ALLOC | _SHF_EXECINSTR, start, table_at,
            last + size - start, 0, 0, 16, 0,
        ),
        _SHDR.pack(
            name_at(b".symtab"), _SHT_SYMTAB, 0, 0, table_at, len(table), _STRTAB, 1, 8, _SYM.size
        ),
        _SHDR.pack(name_at(b".strtab"), _SHT_STRTAB, 0, 0, strings_at, len(strings), 0, 0, 1, 0),
        table,
        strings,
    ])  # fmt: skip


def _functions(symbols: Symbols) -> Iterator[tuple[int, int, str]]:
    """Yield address, size and name of each; a function ends where the next symbol is."""
    addresses = [int(address) + symbols.slide for address in symbols.addresses]
    ends = [*addresses[1:], *(address + 1 for address in addresses[-1:])]
    for address, end, name in zip(addresses, ends, symbols.names, strict=True):
        if name is not None:
            yield address, end - address, name
