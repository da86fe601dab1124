# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of hashes by which OVMF checks kernel, initrd and command line of an SEV guest.  Pure.

QEMU's target/i386/sev.c writes it, OvmfPkg's BlobVerifierLibSevHashes reads it.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID


_TABLE: Final = UUID("9438d606-4f22-4cc9-b479-a793d411fd21")
_COMMAND_LINE: Final = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
_INITRD: Final = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d")
_KERNEL: Final = UUID("4de79437-abd2-427f-b835-d5b172d2045b")
_HEADER: Final = struct.Struct("<16sH")
_ENTRY: Final = struct.Struct("<16sH32s")
_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class LoadedKernel:
    """What QEMU loads for ``-kernel``, ``-initrd`` and ``-append``."""

    kernel: bytes
    initrd: bytes
    command_line: str

    def table(self) -> bytes:
        """Return the table with its padding."""
        contents = (
            (_COMMAND_LINE, self.command_line.encode() + b"\0"),
            (_INITRD, self.initrd),
            (_KERNEL, self.kernel),
        )
        entries = b"".join(
            _ENTRY.pack(guid.bytes_le, _ENTRY.size, hashlib.sha256(content).digest())
            for guid, content in contents
        )
        whole = _HEADER.pack(_TABLE.bytes_le, _HEADER.size + len(entries)) + entries
        return whole + bytes(-len(whole) % _ALIGNMENT)
