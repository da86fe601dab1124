# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of RTMR0 of a TD that OVMF starts with a kernel that QEMU loads.  Pure.

What is known before the boot: the list of hand-off blocks, from the firmware's sections and the
memory; the firmware's variables; that no keys are enrolled; and, without devices to boot from, the
boot entries.  The three blobs of ACPI tables are QEMU's.

TDVF Design Guide, 3.7 and 8; OvmfPkg's TdxHelperLib and Tcg2 measurements; PI specification, volume
3, for hand-off blocks.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cvmlab.measurement.mrtd import Section, sections_of
from cvmlab.measurement.ovmf_tables import FirmwareImage


ACPI: Final = "ACPI DATA"
BOOT: Final = ("BootOrder", "Boot0000")
_CFV, _TD_HOB = 1, 2
_HANDOFF, _RESOURCE = 1, 3
_MEMORY, _UNACCEPTED = 0, 7
_ATTRIBUTES: Final = 7  # present, initialized, tested
_VERSION: Final = 9
_HEAD: Final = struct.Struct("<HHI")
_HANDOFF_BODY: Final = struct.Struct("<II5Q")
_RESOURCE_BODY: Final = struct.Struct("<16xIIQQ")
_SEPARATOR: Final = bytes(4)

_GLOBAL: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SECURE_BOOT: Final = (
    ("SecureBoot", _GLOBAL), ("PK", _GLOBAL), ("KEK", _GLOBAL), ("db", _SECURITY), ("dbx", _SECURITY),
)  # fmt: skip
_BOOT_ORDER: Final = bytes(2)
_UI_VOLUME: Final = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
_UI_FILE: Final = UUID("462caa21-7614-4503-836e-8ab6f4662331")
_NODE: Final = struct.Struct("<BBH16s")
_ACTIVE_APPLICATION: Final = 0x109  # active, hidden, an application
_TOP_OF_LOW: Final = 0xB000_0000
_LOW_WITH_HIGH: Final = 0x8000_0000
_HIGH: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event in the order in which it is extended; without a digest it is not known before."""

    name: str
    digest: bytes | None


def known_events(
    firmware: FirmwareImage, memory_bytes: int, *, only_a_kernel: bool
) -> list[KnownEvent]:
    """Return the events that extend RTMR0 of a q35 machine with this memory.

    *only_a_kernel*: there is no device from which the firmware might boot.  With one, the boot
    entries are not known, and there may be more of them.
    """
    found = _events(firmware, sections_of(firmware), pc_ram(memory_bytes))
    return [
        KnownEvent(name, digest if only_a_kernel or name not in BOOT else None)
        for name, digest in found
    ]


def pc_ram(memory_bytes: int) -> list[tuple[int, int]]:
    """Return where memory begins and ends: QEMU's hw/i386/pc_q35.c."""
    low = memory_bytes if memory_bytes < _TOP_OF_LOW else _LOW_WITH_HIGH
    high = [(_HIGH, _HIGH + memory_bytes - low)] if memory_bytes > low else []
    return [(0, low), *high]


def rtmr0(known: Iterable[KnownEvent], others: Iterable[bytes]) -> bytes:
    """Return RTMR0 of these events, with the digests of those that are not known."""
    left = iter(others)
    value = bytes(hashlib.sha384().digest_size)
    for event in known:
        value = _digest(value + (next(left) if event.digest is None else event.digest))
    return value


def _events(
    firmware: FirmwareImage, sections: list[Section], ram: list[tuple[int, int]]
) -> Iterator[tuple[str, bytes | None]]:
    for section in sections:
        if section.kind == _TD_HOB:
            yield "hand-off blocks", _digest(hand_off_blocks(sections, section.gpa, ram))
    for section in sections:
        if section.kind == _CFV:
            content = firmware.data[section.offset : section.offset + section.size]
            yield "variables of the firmware", _digest(content)
    for name, guid in _SECURE_BOOT:
        yield name, _digest(_variable(name, guid))
    yield "separator", _digest(_SEPARATOR)
    for _ in range(3):
        yield ACPI, None
    order, entry = BOOT
    yield order, _digest(_BOOT_ORDER)
    yield entry, _digest(_boot_entry())


def _variable(name: str, guid: UUID) -> bytes:
    """Return UEFI_VARIABLE_DATA of a variable that does not exist."""
    return struct.pack("<16sQQ", guid.bytes_le, len(name), 0) + name.encode("utf-16-le")


def _boot_entry() -> bytes:
    """Return EFI_LOAD_OPTION of OVMF's user interface, the only entry of a machine without devices."""
    path = _NODE.pack(4, 7, _NODE.size, _UI_VOLUME.bytes_le)
    path += _NODE.pack(4, 6, _NODE.size, _UI_FILE.bytes_le) + bytes.fromhex("7fff0400")
    return struct.pack("<IH", _ACTIVE_APPLICATION, len(path)) + "UiApp\0".encode("utf-16-le") + path


def hand_off_blocks(sections: list[Section], gpa: int, ram: list[tuple[int, int]]) -> bytes:
    """Return the list as the launch makes it, without its end, which is not measured."""
    resources = b"".join(
        _resource(kind, start, end)
        for piece in ram
        for kind, start, end in _pieces(sections, piece)
    )
    size = _HEAD.size + _HANDOFF_BODY.size
    end = gpa + size + len(resources) + _HEAD.size
    head = _HEAD.pack(_HANDOFF, size, 0) + _HANDOFF_BODY.pack(_VERSION, 0, 0, 0, 0, 0, end)
    return head + resources


def _resource(kind: int, start: int, end: int) -> bytes:
    size = _HEAD.size + _RESOURCE_BODY.size
    return _HEAD.pack(_RESOURCE, size, 0) + _RESOURCE_BODY.pack(
        kind, _ATTRIBUTES, start, end - start
    )


def _pieces(sections: list[Section], ram: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield what of a piece of memory is accepted, because a section is there, and what is not."""
    at, end = ram
    for section in sorted(sections, key=lambda one: one.gpa):
        if at <= section.gpa < end:
            if at < section.gpa:
                yield _UNACCEPTED, at, section.gpa
            at = section.gpa + section.size
            yield _MEMORY, section.gpa, at
    if at < end:
        yield _UNACCEPTED, at, end


def _digest(content: bytes) -> bytes:
    return hashlib.sha384(content).digest()
