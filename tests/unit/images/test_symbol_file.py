# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF file of names that a debugger is given, as pyelftools and our own reader see it."""

import io

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cvmlab.base.errors import ImageError
from cvmlab.images.symbol_file import function_names
from cvmlab.images.symbols import Symbol, Symbols, from_elf
from cvmlab.profiles.architecture import X86_64


BASE = 0xFFFFFFFF81000000
FUNCTIONS = Symbols.of([
    Symbol(BASE, "startup_64"),
    Symbol(BASE + 0x40, "start_kernel"),
    Symbol(BASE + 0x100, "_etext"),
    Symbol(BASE + 0x1000, "jiffies", text=False),
])  # fmt: skip


def test_the_names_are_where_the_functions_are() -> None:
    elf = ELFFile(io.BytesIO(function_names(FUNCTIONS, X86_64)))
    assert elf.header["e_machine"] == "EM_X86_64"
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    found = {one.name: (one["st_value"], one["st_size"]) for one in table.iter_symbols()}
    assert found == {
        "": (0, 0), "startup_64": (BASE, 0x40), "start_kernel": (BASE + 0x40, 0xC0),
    }  # fmt: skip
    text = elf.get_section_by_name(".text")
    assert text is not None
    assert (text["sh_addr"], text["sh_size"]) == (BASE, 0x100)


def test_our_own_reader_finds_them_again() -> None:
    again = from_elf(function_names(FUNCTIONS.with_slide(0x200000), X86_64))
    assert again.resolve(BASE + 0x200044) == "start_kernel+0x4"
    assert again.address_of("startup_64") == BASE + 0x200000


@pytest.mark.parametrize("symbols", [Symbols.of([]), Symbols.of([Symbol(1, "x", text=False)])])
def test_without_functions_there_is_no_file(symbols: Symbols) -> None:
    with pytest.raises(ImageError, match="no names of functions"):
        function_names(symbols, X86_64)
