# SPDX-License-Identifier: GPL-2.0-or-later
"""The save area of a virtual CPU as QEMU with KVM launches it, which hardware measures.  Pure.

"AMD64 Architecture Programmer's Manual", volume 2, table B-4; the values are those of a CPU after
reset, with what KVM sets besides: EFER.SVME and CR4.MCE.
"""

import struct
from typing import Final

from cvmlab.memory.ranges import PAGE_SIZE


RESET_VECTOR: Final = 0xFFFF_FFF0
SNP_ACTIVE: Final = 1
_SEGMENT: Final = struct.Struct("<HHIQ")
_SEGMENTS_AT: Final = {
    "es": 0x00, "cs": 0x10, "ss": 0x20, "ds": 0x30, "fs": 0x40, "gs": 0x50, "gdtr": 0x60,
    "ldtr": 0x70, "idtr": 0x80, "tr": 0x90,
}  # fmt: skip
_ATTRIBUTES: Final = {"cs": 0x9B, "gdtr": 0, "idtr": 0, "ldtr": 0x82, "tr": 0x8B}
_DATA: Final = 0x93
_NUMBERS: Final = {
    0x0D0: 0x1000,  # EFER: SVME
    0x148: 0x40,  # CR4: MCE
    0x158: 0x10,  # CR0: ET
    0x160: 0x400,  # DR7
    0x168: 0xFFFF_0FF0,  # DR6
    0x170: 0x2,  # RFLAGS
    0x268: 0x0007_0406_0007_0406,  # PAT
    0x3E8: 0x1,  # XCR0
}
_RIP, _RDX, _FEATURES, _MXCSR, _FCW = 0x178, 0x310, 0x3B0, 0x408, 0x410


def vmsa(start: int, signature: int, features: int = SNP_ACTIVE) -> bytes:
    """Return the page of a CPU that begins at *start*; *signature* is CPUID 1 EAX."""
    page = bytearray(PAGE_SIZE)
    for name, at in _SEGMENTS_AT.items():
        is_code = name == "cs"
        _SEGMENT.pack_into(
            page, at, 0xF000 if is_code else 0, _ATTRIBUTES.get(name, _DATA), 0xFFFF,
            start & 0xFFFF_0000 if is_code else 0,
        )  # fmt: skip
    values = {**_NUMBERS, _RIP: start & 0xFFFF, _RDX: signature, _FEATURES: features}
    for at, value in values.items():
        struct.pack_into("<Q", page, at, value)
    struct.pack_into("<I", page, _MXCSR, 0x1F80)
    struct.pack_into("<H", page, _FCW, 0x37F)
    return bytes(page)
