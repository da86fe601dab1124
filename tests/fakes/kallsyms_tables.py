# SPDX-License-Identifier: GPL-2.0-or-later
"""The kallsyms tables of kernels, encoded independently of the decoder."""

import struct
from dataclasses import dataclass
from enum import StrEnum


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


def entries(layout: Layout, text: int = TEXT) -> list[Entry]:
    """Functions 0x40 apart from _stext on; before 7.x two per-CPU symbols in front."""
    percpu = [] if layout is Layout.V7_2 else [Entry(0, "Afixed_percpu_data"), Entry(64, "Ddebug")]
    named = [Entry(text, "T_stext"), Entry(text + 0x40, "Tstart_kernel")]
    many = [Entry(text + 0x40 * i, f"tfunction_{i:04d}") for i in range(2, FUNCTIONS)]
    last = [Entry(text + 0x40 * FUNCTIONS, "T_etext"), Entry(text + 0x200_0000, "Dbanner")]
    return percpu + named + many + last


def token_table() -> list[bytes]:
    """Every byte is its own token, but two that stand for frequent pieces."""
    tokens = [bytes([byte]) if 33 <= byte < 127 else b"" for byte in range(256)]
    tokens[0x01], tokens[0x02] = b"tfunction_", b"kernel"
    return tokens


def compress(name: str) -> bytes:
    packed = name.encode().replace(b"tfunction_", b"\x01").replace(b"kernel", b"\x02")
    return bytes([len(packed)]) + packed


def offset_of(entry: Entry, text: int) -> int:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU, base *text*."""
    return entry.address if entry.address < text else text - 1 - entry.address


class Blob:
    """Bytes with the alignment that the kernel's assembler output asks for."""

    def __init__(self, alignment: int) -> None:
        self.data = bytearray(b"\xcc" * 64 + b"some read-only data 0\x001\x002\x003\x00 and more")
        self.alignment = alignment

    def add(self, content: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % self.alignment)
        self.data += content
        return len(self.data) - len(content)


def image(
    layout: Layout, text: int = TEXT, rodata: int = RODATA, *, base: int | None = None
) -> bytes:
    """The tables of a kernel of *layout*, its offsets linked to *rodata*.

    *base* is what stands where the relative base is, *text* unless a relocation puts it there.
    """
    blob = Blob(4 if layout is Layout.V7_2 else 8)
    syms = entries(layout, text)
    base_word = struct.pack("<Q", text if base is None else base)
    offsets = b"".join(
        struct.pack("<i", offset_of(entry, text)) for entry in syms if layout != "7.2"
    )
    if layout is Layout.V6_1:
        blob.add(offsets)
        blob.add(base_word)
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
        blob.add(base_word)
    if layout is Layout.V7_2:
        at = blob.add(b"")
        places = enumerate(syms)
        relative = [entry.address - (rodata + at + 4 * number) for number, entry in places]
        blob.add(struct.pack(f"<{len(syms)}i", *relative))
    blob.add(b"\0\0\1" * len(syms))
    return bytes(blob.data)
