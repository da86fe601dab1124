# SPDX-License-Identifier: GPL-2.0-or-later
"""The event log of a TD, which firmware and kernel keep, and the RTMRs that it adds up to.  Pure.

Linux shows it as /sys/firmware/acpi/tables/data/CCEL.  "TCG PC Client Platform Firmware Profile", 10,
with the registers of "UEFI specification", 38.4.1: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cvmlab.base.errors import ConfigError


RTMRS: Final = 4
_SHA384: Final = 0x000C
_DIGEST_BYTES: Final = 48
_NO_ACTION: Final = 3
_SIGNATURE: Final = b"Spec ID Event03\0"
_FIRST: Final = struct.Struct("<II20sI")  # register, type, SHA-1, size
_SPEC_ID: Final = struct.Struct("<16sIBBBBI")  # signature, class, versions, size of a word, count
_ALGORITHM: Final = struct.Struct("<HH")
_EVENT: Final = struct.Struct("<III")  # register, type, number of digests
_EMPTY: Final = (0, 0xFFFF_FFFF)  # what follows the last event

_TYPES: Final = {
    0x0000_0003: "EV_NO_ACTION",
    0x0000_0004: "EV_SEPARATOR",
    0x0000_0005: "EV_ACTION",
    0x0000_0006: "EV_EVENT_TAG",
    0x0000_000D: "EV_IPL",
    0x8000_0001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x8000_0002: "EV_EFI_VARIABLE_BOOT",
    0x8000_0003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x8000_0007: "EV_EFI_ACTION",
    0x8000_0008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x8000_0009: "EV_EFI_HANDOFF_TABLES",
    0x8000_000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000_000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000_000C: "EV_EFI_VARIABLE_BOOT2",
}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event; ``digest`` is SHA-384, and empty if the log has none."""

    register: int
    kind: int
    digest: bytes
    content: bytes

    @property
    def name(self) -> str:
        """The name of its type."""
        return _TYPES.get(self.kind, f"0x{self.kind:x}")

    @property
    def rtmr(self) -> int | None:
        """The RTMR that it extends; None if it extends none."""
        number = self.register - 1
        return number if self.kind != _NO_ACTION and 0 <= number < RTMRS else None


def events(log: bytes) -> list[LogEvent]:
    """Return the events of a log; raise ConfigError if it is none."""
    try:
        return list(_events(log))
    except (struct.error, ValueError) as error:
        raise ConfigError(
            "this is not an event log of a TD",
            hint="in the guest it is /sys/firmware/acpi/tables/data/CCEL",
        ) from error


def replay(found: Iterable[LogEvent]) -> tuple[bytes, ...]:
    """Return RTMR0 to RTMR3 after all events."""
    values = [bytes(_DIGEST_BYTES)] * RTMRS
    for event in found:
        if event.rtmr is not None:
            values[event.rtmr] = hashlib.sha384(values[event.rtmr] + event.digest).digest()
    return tuple(values)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_at_end(self) -> bool:
        return self._at + _EVENT.size > len(self._data)

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        found = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return found

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise ValueError("cut short")
        self._at += size
        return found


def _events(log: bytes) -> Iterator[LogEvent]:
    reader = _Reader(log)
    register, kind, _sha1, size = reader.unpack(_FIRST)
    sizes = _digest_sizes(reader.take(size))
    yield LogEvent(register, kind, b"", b"")
    while not reader.is_at_end:
        register, kind, count = reader.unpack(_EVENT)
        if register in _EMPTY and kind in _EMPTY:
            return
        digests = {}
        for _ in range(count):
            (algorithm,) = reader.unpack(struct.Struct("<H"))
            if algorithm not in sizes:
                raise ValueError("an unknown algorithm")
            digests[algorithm] = reader.take(sizes[algorithm])
        (size,) = reader.unpack(struct.Struct("<I"))
        yield LogEvent(register, kind, digests.get(_SHA384, b""), reader.take(size))


def _digest_sizes(content: bytes) -> dict[int, int]:
    reader = _Reader(content)
    signature, *_versions, count = reader.unpack(_SPEC_ID)
    if signature != _SIGNATURE:
        raise ValueError("another kind of log")
    pairs = (reader.unpack(_ALGORITHM) for _ in range(count))
    return {int(algorithm): int(size) for algorithm, size in pairs}
