# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables by which OVMF tells a VMM how to launch it: OvmfPkg/ResetVector.  Pure."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from cvmlab.base.errors import ConfigError


_TABLE: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_BEHIND_TABLE: Final = 32
_ENTRY: Final = struct.Struct("<H16s")  # behind its data
_HEADER: Final = struct.Struct("<4sIII")  # signature, length, version, count
_TOP: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class FirmwareImage:
    """Firmware that ends at 4 GiB, and the entries of its table by GUID."""

    data: bytes
    entries: Mapping[UUID, bytes]

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the firmware of a file; without a table it has no entries."""
        return cls(data, dict(_entries(data)))

    @property
    def gpa(self) -> int:
        return _TOP - len(self.data)

    def number(self, guid: UUID, at: int = 0) -> int | None:
        """Return a number of four bytes in an entry; None without the entry."""
        found = self.entries.get(guid)
        if found is None or len(found) < at + 4:
            return None
        return int.from_bytes(found[at : at + 4], "little")

    def sections(
        self, guid: UUID, signature: bytes, layout: struct.Struct
    ) -> list[tuple[Any, ...]]:
        """Return what a list of sections has that an entry leads to; raise ConfigError if it is odd."""
        from_end = self.number(guid)
        if from_end is None:
            return []
        start = len(self.data) - from_end
        try:
            found, _length, _version, count = _HEADER.unpack_from(self.data, start)
            rows = [
                layout.unpack_from(self.data, start + _HEADER.size + number * layout.size)
                for number in range(count)
            ]
        except struct.error:
            found, rows = b"", []
        if start < 0 or found != signature:
            raise ConfigError(f"the firmware's {signature.decode()} metadata is malformed")
        return rows


def _entries(data: bytes) -> Iterator[tuple[UUID, bytes]]:
    end = len(data) - _BEHIND_TABLE
    if end < _ENTRY.size:
        return
    size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
    if UUID(bytes_le=guid) != _TABLE:
        return
    first, end = end - size, end - _ENTRY.size
    while end - _ENTRY.size >= first >= 0:
        size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
        if not _ENTRY.size <= size <= end - first:
            return
        yield UUID(bytes_le=guid), data[end - size : end - _ENTRY.size]
        end -= size
