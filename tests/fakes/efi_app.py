# SPDX-License-Identifier: GPL-2.0-or-later
"""An EFI application as small as one can be: it prints a line and ends QEMU's run."""

import struct


COM1, DEBUG_EXIT = 0x3F8, 0x501
ENTRY = 0x1000
FILE_BYTES = 0x2000  # QEMU wants more of a kernel than this has


def efi_application(line: str) -> bytes:
    """Return a PE32+ file that writes *line* to COM1, and 0 to isa-debug-exit."""
    message = line.encode() + b"\r\n\0"
    code = b"".join(
        [
            b"\x48\x8d\x35\x18\0\0\0",  # lea rsi, [rip + 24]: the message
            b"\x66\xba" + struct.pack("<H", COM1),  # mov dx, COM1
            b"\xac\x84\xc0\x74\x03\xee\xeb\xf8",  # until a zero: lodsb; out dx, al
            b"\x66\xba" + struct.pack("<H", DEBUG_EXIT),
            b"\x30\xc0\xee",  # xor al, al; out dx, al
            b"\x31\xc0\xc3",  # return EFI_SUCCESS
        ]
    ).ljust(31, b"\x90")
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        0x20B, 0, 0, 0x200, 0, 0, ENTRY, ENTRY, 0, 0x1000, 0x200, 0, 0, 0, 0, 0, 0, 0,
        2 * 0x1000, 0x200, 0, 10, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, len(optional), 0x22)
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", 0x1000, ENTRY, 0x200, 0x200, 0, 0, 0, 0, 0x60000020
    )
    head = (
        b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + coff + optional + section
    )
    return (head.ljust(0x200, b"\0") + code + message).ljust(FILE_BYTES, b"\0")
