# SPDX-License-Identifier: GPL-2.0-or-later
"""MRTD of a TD: what TDH.MEM.PAGE.ADD and TDH.MR.EXTEND add to it for the sections of TDVF.  Pure.

"Intel TDX Module Base Architecture Specification", measurement; "Intel TDX Virtual Firmware Design
Guide", TDVF metadata.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cvmlab.base.errors import ConfigError
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.memory.ranges import PAGE_SIZE


DIGEST_BYTES: Final = 48
_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_SECTION: Final = struct.Struct("<IIQQII")
_COPIED: Final = (0, 1)  # BFV, CFV
_EXTEND: Final = 1
_BLOCK: Final = struct.Struct("<16sQ104x")
_CHUNK_BYTES: Final = 256
_TOP: Final = 4 << 30  # what firmware describes is below it: plugin/profiles/tdx/tdvf.c


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the TD's memory that firmware describes, and where its content is in the file."""

    offset: int
    raw_size: int
    gpa: int
    size: int
    kind: int
    attributes: int


def sections_of(firmware: FirmwareImage) -> list[Section]:
    """Return the sections of TDVF; none for other firmware.  Raise ConfigError if they are odd."""
    found = [Section(*row) for row in firmware.sections(_METADATA, b"TDVF", _SECTION)]
    for section in found:
        if section.size > _TOP or section.gpa > _TOP:
            raise ConfigError(
                f"the firmware has a section at 0x{section.gpa:x} that is above 4 GiB"
            )
    return found


def mrtd(firmware: FirmwareImage) -> bytes:
    """Return MRTD; zeros for firmware that is not TDVF, which no launch measures here."""
    sections = sections_of(firmware)
    if not sections:
        return bytes(DIGEST_BYTES)
    digest = hashlib.sha384()
    for section in sections:
        measured, size = bool(section.attributes & _EXTEND), section.size
        if measured and section.kind not in _COPIED:
            raise ConfigError(
                f"the firmware has a section at 0x{section.gpa:x} measured that only the launch fills"
            )
        content = firmware.data[section.offset : section.offset + size] if measured else b""
        for at in range(0, size, PAGE_SIZE):
            digest.update(_BLOCK.pack(b"MEM.PAGE.ADD", section.gpa + at))
            for chunk in range(at, at + PAGE_SIZE, _CHUNK_BYTES) if measured else ():
                digest.update(_BLOCK.pack(b"MR.EXTEND", section.gpa + chunk))
                digest.update(content[chunk : chunk + _CHUNK_BYTES])
    return digest.digest()
