# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols from every source."""

import struct
from pathlib import Path

import pytest

from cvmlab.base.errors import ImageError
from cvmlab.images import kallsyms, symbols
from cvmlab.images.symbols import LazySymbols, Symbol, Symbols
from cvmlab.profiles.architecture import X86_64
from tests.fakes.kallsyms_tables import RODATA, TEXT, Layout, compress, entries, image


RULES = X86_64.symbols


def decode(content: bytes) -> kallsyms.Kallsyms:
    return kallsyms.decode(content, (kallsyms.Segment(0, RODATA, len(content)),), RULES)


@pytest.mark.parametrize("layout", Layout)
def test_kallsyms_of_every_layout_give_back_what_was_encoded(layout: Layout) -> None:
    found = decode(image(layout))

    expected = entries(layout)
    assert list(found.names) == [entry.name[1:] for entry in expected]
    assert found.addresses.tolist() == [entry.address for entry in expected]
    assert found.types == "".join(entry.name[0] for entry in expected)


@pytest.mark.parametrize("layout", Layout)
def test_a_damaged_table_is_refused_rather_than_misread(layout: Layout) -> None:
    content = bytearray(image(layout))
    name = content.index(compress("Tstart_kernel"))
    content[name] += 1  # every later name now starts one byte late

    with pytest.raises(ImageError, match="layout that cvmlab does not know"):
        decode(bytes(content))


def test_a_file_without_tables_is_refused() -> None:
    with pytest.raises(ImageError, match="has no kallsyms tables") as caught:
        decode(bytes(100_000))
    assert caught.value.hint is not None


@pytest.fixture
def program() -> Symbols:
    return Symbols.of(
        [
            Symbol(0x1000, "_start"),
            Symbol(0x1000, "_text"),
            Symbol(0x1000, "entry", local=True),
            Symbol(0x1040, "work"),
            Symbol(0x1080, "", text=False),
        ]
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (0xFFF, None),
        (0x1000, "_start+0x0"),
        (0x103F, "_start+0x3f"),
        (0x1040, "work+0x0"),
        (0x107F, "work+0x3f"),
        (0x1080, None),
        (0, None),
        ((1 << 64) - 1, None),
    ],
)
def test_an_address_belongs_to_the_function_that_starts_at_or_before_it(
    program: Symbols, address: int, expected: str | None
) -> None:
    assert program.resolve(address) == expected


def test_a_slide_moves_every_answer(program: Symbols) -> None:
    moved = program.with_slide(0x20_0000)

    assert moved.resolve(0x20_1044) == "work+0x4"
    assert moved.resolve(0x1044) is None
    assert program.resolve(0x1044) == "work+0x4"


@pytest.mark.parametrize(
    ("symbols_there", "chosen"),
    [
        ([Symbol(1, "local", local=True), Symbol(1, "exported")], "exported"),
        ([Symbol(1, "__plain"), Symbol(1, "plain")], "plain"),
        ([Symbol(1, "__pfx_work"), Symbol(1, "work", local=True)], "work"),
        ([Symbol(1, "data", text=False), Symbol(1, "__pfx_work", local=True)], "__pfx_work"),
        ([Symbol(1, "_stext"), Symbol(1, "__pfx_work", local=True)], "__pfx_work"),
        ([Symbol(1, "first"), Symbol(1, "second")], "first"),
    ],
)
def test_of_several_names_the_most_telling_is_given(
    symbols_there: list[Symbol], chosen: str
) -> None:
    assert Symbols.of(symbols_there).resolve(1) == f"{chosen}+0x0"


def test_a_linker_mark_ends_a_function_and_names_nothing() -> None:
    marked = Symbols.of([Symbol(0x1000, "work"), Symbol(0x1040, "__entry_text_end")])

    assert marked.resolve(0x1041) is None


def kernel() -> Symbols:
    return Symbols.of([Symbol(entry.address, entry.name[1:]) for entry in entries(Layout.V7_2)])


def test_the_slide_is_found_from_an_address_in_a_known_function() -> None:
    slide = 37 * RULES.kaslr_step

    assert kernel().infer_slide([TEXT + 0x44 + slide], ["start_kernel"], RULES) == slide


@pytest.mark.parametrize("slide", [1 << 20, 1 << 30, -(2 << 20)])
def test_the_slide_is_one_that_a_kernel_can_have(slide: int) -> None:
    """Steps of 2 MiB, below 1 GiB."""
    small = Symbols.of([Symbol(TEXT, "small"), Symbol(TEXT + 4096, "", text=False)])

    assert small.infer_slide([TEXT + slide], ["small"], RULES) is None


def test_the_largest_slide_is_found() -> None:
    slide = (1 << 30) - (2 << 20)

    assert kernel().infer_slide([TEXT + 0x44 + slide], ["start_kernel"], RULES) == slide


def test_no_slide_is_claimed_when_none_or_several_fit() -> None:
    everything = [entry.name[1:] for entry in entries(Layout.V7_2)]
    wide = Symbols.of([Symbol(TEXT, "one"), Symbol(TEXT + RULES.kaslr_step, "two")])

    assert kernel().infer_slide([0x1234], everything, RULES) is None
    assert kernel().infer_slide([], everything, RULES) is None
    assert wide.infer_slide([TEXT + RULES.kaslr_step + 4], ["one", "two"], RULES) is None


def test_a_system_map_names_text_and_not_data() -> None:
    lines = [f"{TEXT + 0x40 * i:016x} t function_{i}" for i in range(15)]
    lines += [f"{TEXT + 0x1000:016x} D data", "", "not a line of it"]
    found = symbols.from_system_map("\n".join(lines))

    assert found.resolve(TEXT + 0x45) == "function_1+0x5"
    assert found.resolve(TEXT + 0x1001) is None


def test_debians_placeholder_is_not_taken_for_a_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
    )

    with pytest.raises(ImageError, match="is a placeholder"):
        symbols.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot read symbols from .*nowhere: No such file"):
        symbols.load(tmp_path / "nowhere")


def elf64(names: dict[str, tuple[int, int]], *, code: tuple[int, int]) -> bytes:
    """An ELF file with one code section, and a symbol table of ``name: (address, info)``.

    A name that starts with ``data`` is in a section without code, one after the code.
    """
    strings, table = b"\0", bytes(24)
    for name, (address, info) in names.items():
        section = 5 if name.startswith("data") else 1
        table += struct.pack("<IBBHQQ", len(strings), info, 0, section, address, 0)
        strings += name.encode() + b"\0"
    table += struct.pack("<IBBHQQ", 0, 0x02, 0, 1, code[0] + 8, 0)  # a function without a name
    shstr = b"\0.text\0.symtab\0.strtab\0"
    body = table + strings + shstr
    headers = _section(0, 0, 0, 0, (0, 0))
    headers += _section(1, 1, 6, code[0], (64, code[1]))
    headers += _section(7, 2, 0, 0, (64, len(table)), link=3, each=24)
    headers += _section(15, 3, 0, 0, (64 + len(table), len(strings + shstr)))
    headers += _section(15, 3, 0, 0, (64 + len(table + strings), len(shstr)))
    headers += _section(1, 1, 3, code[0] + code[1], (64, 0x1000))
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    counts = (64, 56, 0, 64, 6, 4)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(body), 0, *counts)
    return ident + header + body + headers


def _section(
    name: int,
    kind: int,
    flags: int,
    address: int,
    place: tuple[int, int],
    *,
    link: int = 0,
    each: int = 0,
) -> bytes:
    return struct.pack("<IIQQQQIIQQ", name, kind, flags, address, *place, link, 0, 1, each)


def stripped(content: bytes, address: int) -> bytes:
    """An ELF file without sections that loads *content* at *address*."""
    at = 64 + 56
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    size = len(content)
    segment = struct.pack("<IIQQQQQQ", 1, 5, at, address, 0, size, size, 0x1000)
    return ident + header + segment + content


def test_an_elf_file_names_functions_and_labels_in_code_only(tmp_path: Path) -> None:
    path = tmp_path / "guest.elf"
    names = {
        "_start": (0x1000, 0x10),
        "loop": (0x1020, 0x00),
        "work": (0x1020, 0x12),
        "buffer": (0x1030, 0x11),
        "data_label": (0x1068, 0x10),
    }
    path.write_bytes(elf64(names, code=(0x1000, 0x60)))

    found = symbols.load(path)

    assert found.resolve(0x1004) == "_start+0x4"
    assert found.resolve(0x100C) == "_start+0xc"
    assert found.resolve(0x105F) == "work+0x3f"
    assert found.resolve(0x1060) is None
    assert found.resolve(0x1070) is None


def test_a_32_bit_elf_file_names_functions_too() -> None:
    strings = b"\0_start\0work\0"
    table = bytes(16)
    for name, address in ((1, 0x1000), (8, 0x1020)):
        table += struct.pack("<IIIBBH", name, address, 0, 0x12, 0, 1)
    shstr = b"\0.text\0.symtab\0.strtab\0"
    body = table + strings + shstr
    at = 52
    headers = struct.pack("<10I", *([0] * 10))
    headers += struct.pack("<10I", 1, 1, 6, 0x1000, at, 0x40, 0, 0, 1, 0)
    headers += struct.pack("<10I", 7, 2, 0, 0, at, len(table), 3, 0, 1, 16)
    headers += struct.pack("<10I", 15, 3, 0, 0, at + len(table), len(strings + shstr), 0, 0, 1, 0)
    headers += struct.pack("<10I", 15, 3, 0, 0, at + len(table + strings), len(shstr), 0, 0, 1, 0)
    counts = (52, 32, 0, 40, 5, 4)
    header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x1000, 0, at + len(body), 0, *counts)
    found = symbols.from_elf(b"\x7fELF\x01\x01\x01" + bytes(9) + header + body + headers)

    assert found.resolve(0x1004) == "_start+0x4"
    assert found.resolve(0x103F) == "work+0x1f"
    assert found.resolve(0x1040) is None


def test_a_stripped_kernel_is_read_through_its_own_tables() -> None:
    content = image(Layout.V6_12)

    found = symbols.from_elf(stripped(content, RODATA))

    assert found.resolve(TEXT + 0x44) == "start_kernel+0x4"
    assert found.resolve(TEXT + 0x40 * 700) == "function_0700+0x0"
    assert found.resolve(RODATA + 0x100_0000) is None


def test_a_damaged_elf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"\x7fELF\x02\x01\x01")

    with pytest.raises(ImageError):
        symbols.load(path)


def test_lazy_symbols_load_once_and_remember_a_problem() -> None:
    asked: list[int] = []

    def loader() -> Symbols:
        asked.append(1)
        raise ImageError("no symbols")

    lazy = LazySymbols(loader)

    assert lazy.resolve(TEXT) is None
    assert lazy.resolve(TEXT) is None
    assert (lazy.problem, len(asked)) == ("no symbols", 1)
