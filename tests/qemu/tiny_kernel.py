# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel of a few bytes: it reads SEV_STATUS with ESI at boot parameters of ours, and tells.

It is an ELF file for 32-bit mode, started by Xen's PVH note as any ELF kernel is.
"""

import struct
from collections.abc import Sequence
from pathlib import Path


BASE = 0x1000000
PARAMS = BASE + 0x1000
SAYS = b"K"
_COM2 = 0x2F8
_E820_COUNT, _MAGIC, _INITRD, _E820 = 0x1E8, 0x202, 0x218, 0x2D0
_XEN_PVH_ENTRY = 18

Entry = tuple[int, int, int]  # start, size, type; type 1 is memory


def boot_parameters(entries: Sequence[Entry], initrd: int = 0) -> bytes:
    """Return what Linux is given, as far as the plugin reads it."""
    page = bytearray(4096)
    page[_E820_COUNT] = min(len(entries), 255)
    page[_MAGIC : _MAGIC + 4] = b"HdrS"
    struct.pack_into("<I", page, _INITRD, initrd)
    for number, entry in enumerate(entries[:128]):
        struct.pack_into("<QQI", page, _E820 + 20 * number, *entry)
    return bytes(page)


def entry(params: bytes, number: int) -> Entry:
    """Return an entry of the memory map."""
    start, size, kind = struct.unpack_from("<QQI", params, _E820 + 20 * number)
    return start, size, kind


def _code() -> bytes:
    return b"".join([
        b"\xbe" + PARAMS.to_bytes(4, "little"),  # mov esi, PARAMS
        b"\xb9\x31\x01\x01\xc0\x0f\x32",  # mov ecx, SEV_STATUS; rdmsr
        b"\xba" + _COM2.to_bytes(4, "little") + b"\xb0" + SAYS + b"\xee",  # out COM2, 'K'
        b"\xf4\xeb\xfd",  # hlt; jmp to it
    ])  # fmt: skip


def write(path: Path, params: bytes) -> Path:
    """Write the kernel with *params* to *path*; return it."""
    note = struct.pack("<III4sI", 4, 4, _XEN_PVH_ENTRY, b"Xen\0", BASE)
    image = _code().ljust(PARAMS - BASE, b"\0") + params
    headers = 52 + 2 * 32
    header = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, BASE, 52, 0, 0, 52, 32, 2, 0, 0, 0)
    offset = 4096
    load = struct.pack("<8I", 1, offset, BASE, BASE, len(image), len(image), 7, 4096)
    notes = struct.pack("<8I", 4, headers, 0, 0, len(note), len(note), 4, 4)
    path.write_bytes((header + load + notes + note).ljust(offset, b"\0") + image)
    return path
