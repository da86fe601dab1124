# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest files that pass for kernels and kernel modules."""

import struct
from collections.abc import Mapping, Sequence


EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
_ET_REL, _SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 1, 3, 7
_HEADER, _SECTION_HEADER = 64, 64


def elf(sections: Mapping[str, bytes], machine: int = EM_X86_64) -> bytes:
    """Return a 64-bit ELF file of these sections; ``.note*`` are notes."""
    names = ["", *sections, ".shstrtab"]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    contents = [b"", *sections.values(), strings]
    body, headers = b"", b""
    for name, data in zip(names, contents, strict=True):
        kind = _SHT_NOTE if name.startswith(".note") else _SHT_PROGBITS if name else 0
        kind = _SHT_STRTAB if name == ".shstrtab" else kind
        at = strings.index(name.encode() + b"\0") if name else 0
        headers += struct.pack(
            "<IIQQQQIIQQ", at, kind, 0, 0, _HEADER + len(body), len(data), 0, 0, 4, 0
        )
        body += data + bytes(-len(data) % 8)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQI", _ET_REL, machine, 1, 0, 0, _HEADER + len(body), 0)
    head += struct.pack("<HHHHHH", _HEADER, 0, 0, _SECTION_HEADER, len(names), len(names) - 1)
    return head + body + headers


def module(
    name: str, *, depends: Sequence[str] = (), aliases: Sequence[str] = (), softdep: str = ""
) -> bytes:
    """Return a kernel module with nothing but a .modinfo section."""
    items = ["license=GPL", *(f"alias={alias}" for alias in aliases)]
    items += [f"softdep={softdep}"] if softdep else []
    items += [f"depends={','.join(depends)}", f"name={name}"]
    return elf({".modinfo": "".join(f"{item}\0" for item in items).encode()})


def pvh_note(entry: int) -> bytes:
    """Return the contents of a note section with Xen's PHYS32_ENTRY."""
    return struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)


def multiboot_header() -> bytes:
    magic, flags = 0x1BADB002, 0x10000
    return struct.pack("<III", magic, flags, -(magic + flags) & 0xFFFF_FFFF)


def bzimage(
    release: str = "6.6.6-test",
    payload: bytes = b"",
    *,
    is_64_bit: bool = True,
    protocol: int = 0x20F,
) -> bytes:
    """Return a setup sector pair and *payload*, as a boot loader sees a kernel."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x280 - 0x200 + 0x100)
    struct.pack_into("<H", setup, 0x236, int(is_64_bit))
    struct.pack_into("<II", setup, 0x248, 0, len(payload))
    version = f"{release} (builder@host) #1 SMP\0".encode()
    setup[0x380 : 0x380 + len(version)] = version
    return bytes(setup) + payload


def arm64_image(body: bytes = b"", release: str = "") -> bytes:
    """Return an arm64 Image: a header of 64 bytes, the banner of *release*, and *body* at 0x1000."""
    head = bytes(0x38) + b"ARM\x64" + bytes(4)
    banner = f"Linux version {release} (builder@host) #1 SMP\0".encode() if release else b""
    return (head + banner).ljust(0x1000, b"\0") + body


def zboot(payload: bytes, machine: int = 0xAA64) -> bytes:
    """Return an EFI zboot image: a PE file that unpacks *payload*."""
    head = bytearray(b"MZ\0\0zimg".ljust(0x40, b"\0"))
    head[0x3C] = 0x40
    pe = b"PE\0\0" + machine.to_bytes(2, "little")
    struct.pack_into("<II", head, 8, len(head) + len(pe), len(payload))
    return bytes(head) + pe + payload


def relocation(place: int, value: int) -> bytes:
    """Return an Elf64_Rela of the kind R_AARCH64_RELATIVE."""
    return struct.pack("<QQQ", place, 0x403, value)
