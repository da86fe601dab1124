# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols from every source; the kallsyms images are encoded here, independently of the decoder."""

import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from cvmlab import kallsyms, symbols
from cvmlab.errors import ImageError
from cvmlab.symbols import LazySymbols, Symbol, Symbols


TEXT = 0xFFFF_FFFF_8100_0000
RODATA = 0xFFFF_FFFF_8200_0000
FUNCTIONS = 1500


class Layout(StrEnum):
    V6_1 = "6.1"
    V6_12 = "6.12"
    V7_2 = "7.2"


@dataclass(frozen=True)
class Entry:
    address: int
    name: str


def entries(layout: Layout) -> list[Entry]:
    """Functions 0x40 apart from _stext on; before 7.x two per-CPU symbols in front."""
    percpu = [] if layout is Layout.V7_2 else [Entry(0, "Afixed_percpu_data"), Entry(64, "Ddebug")]
    named = [Entry(TEXT, "T_stext"), Entry(TEXT + 0x40, "Tstart_kernel")]
    many = [Entry(TEXT + 0x40 * i, f"tfunction_{i:04d}") for i in range(2, FUNCTIONS)]
    last = [Entry(TEXT + 0x40 * FUNCTIONS, "T_etext"), Entry(RODATA + 0x100_0000, "Dbanner")]
    return percpu + named + many + last


def token_table() -> list[bytes]:
    """Every byte is its own token, but two that stand for frequent pieces."""
    tokens = [bytes([byte]) if 33 <= byte < 127 else b"" for byte in range(256)]
    tokens[0x01], tokens[0x02] = b"tfunction_", b"kernel"
    return tokens


def compress(name: str) -> bytes:
    packed = name.encode().replace(b"tfunction_", b"\x01").replace(b"kernel", b"\x02")
    return bytes([len(packed)]) + packed


def offset_of(entry: Entry) -> int:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU, base TEXT."""
    return entry.address if entry.address < TEXT else TEXT - 1 - entry.address


class Blob:
    """Bytes with the alignment that the kernel's assembler output asks for."""

    def __init__(self, alignment: int) -> None:
        self.data = bytearray(b"\xcc" * 64 + b"some read-only data 0\x001\x002\x003\x00 and more")
        self.alignment = alignment

    def add(self, content: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % self.alignment)
        self.data += content
        return len(self.data) - len(content)


def image(layout: Layout) -> bytes:
    """The tables of a kernel of *layout*, its offsets linked to RODATA."""
    blob = Blob(4 if layout is Layout.V7_2 else 8)
    syms = entries(layout)
    offsets = struct.pack(f"<{len(syms)}i", *map(offset_of, syms)) if layout != "7.2" else b""
    if layout is Layout.V6_1:
        blob.add(offsets)
        blob.add(struct.pack("<Q", TEXT))
    packed = [compress(entry.name) for entry in syms]
    blob.add(struct.pack("<I", len(syms)))
    blob.add(b"".join(packed))
    starts = [sum(map(len, packed[:index])) for index in range(0, len(packed), 256)]
    blob.add(struct.pack(f"<{len(starts)}I", *starts))
    tokens = token_table()
    blob.add(b"".join(token + b"\0" for token in tokens))
    index = [sum(len(token) + 1 for token in tokens[:number]) for number in range(256)]
    blob.add(struct.pack("<256H", *index))
    if layout is Layout.V6_12:
        blob.add(offsets)
        blob.add(struct.pack("<Q", TEXT))
    if layout is Layout.V7_2:
        at = blob.add(b"")
        places = enumerate(syms)
        relative = [entry.address - (RODATA + at + 4 * number) for number, entry in places]
        blob.add(struct.pack(f"<{len(syms)}i", *relative))
    blob.add(b"\0\0\1" * len(syms))
    return bytes(blob.data)


def decode(content: bytes) -> kallsyms.Kallsyms:
    return kallsyms.decode(content, (kallsyms.Segment(0, RODATA, len(content)),))


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
    with pytest.raises(ImageError, match="carries no kallsyms tables") as caught:
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


def test_a_linker_mark_ends_a_function_and_names_nothing() -> None:
    marked = Symbols.of([Symbol(0x1000, "work"), Symbol(0x1040, "__entry_text_end")])

    assert marked.resolve(0x1041) is None


def kernel() -> Symbols:
    return Symbols.of([Symbol(entry.address, entry.name[1:]) for entry in entries(Layout.V7_2)])


def test_the_slide_is_found_from_an_address_in_a_known_function() -> None:
    slide = 37 * symbols.KASLR_STEP

    assert kernel().infer_slide([TEXT + 0x44 + slide], ["start_kernel"]) == slide


def test_no_slide_is_claimed_when_none_or_several_fit() -> None:
    everything = [entry.name[1:] for entry in entries(Layout.V7_2)]
    wide = Symbols.of([Symbol(TEXT, "one"), Symbol(TEXT + symbols.KASLR_STEP, "two")])

    assert kernel().infer_slide([0x1234], everything) is None
    assert kernel().infer_slide([], everything) is None
    assert wide.infer_slide([TEXT + symbols.KASLR_STEP + 4], ["one", "two"]) is None


def test_a_system_map_names_text_and_not_data() -> None:
    lines = [f"{TEXT + 0x40 * i:016x} t function_{i}" for i in range(20)]
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
    """An ELF file with one code section, and a symbol table of ``name: (address, info)``."""
    strings, table = b"\0", bytes(24)
    for name, (address, info) in names.items():
        table += struct.pack("<IBBHQQ", len(strings), info, 0, 1, address, 0)
        strings += name.encode() + b"\0"
    shstr = b"\0.text\0.symtab\0.strtab\0"
    body = table + strings + shstr
    sections_at = 64 + len(body)

    def section(
        name: int, kind: int, flags: int, address: int, at: int, size: int, link: int, each: int
    ) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, flags, address, at, size, link, 0, 1, each)

    at = 64
    headers = section(0, 0, 0, 0, 0, 0, 0, 0)
    headers += section(1, 1, 6, code[0], 64, code[1], 0, 0)
    headers += section(7, 2, 0, 0, at, len(table), 3, 24)
    headers += section(15, 3, 0, 0, at + len(table), len(strings + shstr), 0, 0)
    headers += section(15, 3, 0, 0, at + len(table + strings), len(shstr), 0, 0)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, sections_at, 0, 64, 56, 0, 64, 5, 4)
    return ident + header + body + headers


def test_an_elf_file_names_functions_and_labels_in_code_only(tmp_path: Path) -> None:
    path = tmp_path / "guest.elf"
    names = {"_start": (0x1000, 0x10), "work": (0x1020, 0x12), "buffer": (0x1030, 0x11)}
    path.write_bytes(elf64(names, code=(0x1000, 0x60)))

    found = symbols.load(path)

    assert found.resolve(0x1004) == "_start+0x4"
    assert found.resolve(0x105F) == "work+0x3f"
    assert found.resolve(0x1060) is None


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
