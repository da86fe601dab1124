# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware with the tables of OVMF, and an event log, made by hand; tests/guest has the real ones."""

import random
import struct
from collections.abc import Iterable
from uuid import UUID


SIZE = 64 << 10
HASHES_GPA, HASHES_BYTES = 0x810C00, 0x400
AP_RESET = 0x80B004
# GPA, size, type: memory, secrets, CPUID, SVSM's area, hashes
SEV_SECTIONS = (
    (0x800000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x80F000, 0x1000, 4),
    (0x810000, 0x1000, 0x10),
)  # fmt: skip
# offset, raw size, GPA, size, type, attributes: code (measured), variables, HOB, memory
TDX_SECTIONS = (
    (0x4000, 0xC000, 0xFFFF4000, 0xC000, 0, 1), (0, 0x4000, 0xFFFF0000, 0x4000, 1, 0),
    (0, 0, 0x809000, 0x2000, 2, 0), (0, 0, 0x800000, 0x6000, 3, 0),
)  # fmt: skip


def _entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18, UUID(guid).bytes_le)


def _list(signature: bytes, version: int, rows: Iterable[bytes]) -> bytes:
    rows = list(rows)
    size = 16 + sum(map(len, rows))
    return struct.pack("<4sIII", signature, size, version, len(rows)) + b"".join(rows)


def ovmf(
    sev: Iterable[tuple[int, ...]] = SEV_SECTIONS, tdx: Iterable[tuple[int, ...]] = TDX_SECTIONS
) -> bytes:
    """Return firmware with these sections."""
    image = bytearray(random.Random(1).randbytes(SIZE))
    sev_list = _list(b"ASEV", 1, (struct.pack("<III", *row) for row in sev))
    tdx_list = _list(b"TDVF", 1, (struct.pack("<IIQQII", *row) for row in tdx))
    image[-2048 : -2048 + len(sev_list)] = sev_list
    image[-1024 : -1024 + len(tdx_list)] = tdx_list
    entries = b"".join(
        [
            _entry("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", 1024)),
            _entry("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", 2048)),
            _entry("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", HASHES_GPA, HASHES_BYTES)),
            _entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", AP_RESET)),
        ]
    )  # fmt: skip
    whole = entries + struct.pack(
        "<H16s", len(entries) + 18, UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    )
    image[-32 - len(whole) : -32] = whole
    return bytes(image)


def event(register: int, kind: int, digest: bytes, content: bytes = b"") -> bytes:
    """Return an event of a log with one digest, SHA-384."""
    head = struct.pack("<IIIH", register, kind, 1, 0x0C)
    return head + digest + struct.pack("<I", len(content)) + content


def event_log(*events: bytes) -> bytes:
    """Return a log of *events*."""
    spec_id = struct.pack("<16sIBBBBIHHB", b"Spec ID Event03", 0, 0, 2, 0, 2, 1, 0x0C, 48, 0)
    return struct.pack("<II20sI", 0, 3, b"", len(spec_id)) + spec_id + b"".join(events)
