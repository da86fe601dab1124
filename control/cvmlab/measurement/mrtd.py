# SPDX-License-Identifier: GPL-2.0-or-later
"""MRTD of a TD: what TDH.MEM.PAGE.ADD and TDH.MR.EXTEND add to it for the sections of TDVF.  Pure.

"Intel TDX Module Base Architecture Specification", measurement; "Intel TDX Virtual Firmware Design
Guide", TDVF metadata.
"""

import hashlib
import struct
from typing import Final
from uuid import UUID

from cvmlab.base.errors import ConfigError
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.memory.ranges import PAGE_SIZE


DIGEST_BYTES: Final = 48
_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_SECTION: Final = struct.Struct("<IIQQII")  # offset, raw size, GPA, size, type, attributes
_COPIED: Final = (0, 1)  # BFV, CFV
_EXTEND: Final = 1
_BLOCK: Final = struct.Struct("<16sQ104x")
_CHUNK_BYTES: Final = 256


def mrtd(firmware: FirmwareImage) -> bytes:
    """Return MRTD; zeros for firmware that is not TDVF, which no launch measures here."""
    sections = firmware.sections(_METADATA, b"TDVF", _SECTION)
    if not sections:
        return bytes(DIGEST_BYTES)
    digest = hashlib.sha384()
    for offset, _raw_size, gpa, size, kind, attributes in sections:
        measured = bool(attributes & _EXTEND)
        if measured and kind not in _COPIED:
            raise ConfigError(
                f"the firmware has a section at 0x{gpa:x} measured that only the launch fills"
            )
        content = firmware.data[offset : offset + size] if measured else bytes(size)
        for at in range(0, size, PAGE_SIZE):
            digest.update(_BLOCK.pack(b"MEM.PAGE.ADD", gpa + at))
            for chunk in range(at, at + PAGE_SIZE, _CHUNK_BYTES) if measured else ():
                digest.update(_BLOCK.pack(b"MR.EXTEND", gpa + chunk))
                digest.update(content[chunk : chunk + _CHUNK_BYTES])
    return digest.digest()
