# SPDX-License-Identifier: GPL-2.0-or-later
"""RTMR0, event by event; tests/guest compares with what stock firmware logs."""

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.machine.spec import BootSpec, Net
from cvmlab.measurement.event_log import LogEvent
from cvmlab.measurement.mrtd import sections_of
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.measurement.prediction import differing_events, predict
from cvmlab.measurement.rtmr0 import ACPI, BOOT, hand_off_blocks, known_events, pc_ram, rtmr0
from tests.fakes.ovmf_images import ovmf


GIB = 1 << 30
FIRMWARE = FirmwareImage.of(ovmf())
KNOWN = known_events(FIRMWARE, GIB, only_a_kernel=True)


@pytest.mark.parametrize(
    ("size", "ram"),
    [
        (GIB, [(0, GIB)]),
        (11 * GIB // 4 - 4096, [(0, 11 * GIB // 4 - 4096)]),
        (11 * GIB // 4, [(0, 2 * GIB), (4 * GIB, 19 * GIB // 4)]),
        (8 * GIB, [(0, 2 * GIB), (4 * GIB, 10 * GIB)]),
    ],
)
def test_memory_is_where_q35_has_it(size: int, ram: list[tuple[int, int]]) -> None:
    assert pc_ram(size) == ram


def test_hand_off_blocks_have_all_memory_once() -> None:
    made = hand_off_blocks(sections_of(FIRMWARE), 0x809000, [(0, GIB), (4 * GIB, 5 * GIB)])
    kind, size, _ = struct.unpack_from("<HHI", made)
    (end,) = struct.unpack_from("<Q", made, 48)
    assert (kind, size) == (1, 56)
    # The list's end is not measured, and it is said to be behind its last block, of eight bytes.
    assert end == 0x809000 + len(made) + 8
    pieces = []
    for at in range(56, len(made), 48):
        assert struct.unpack_from("<HH", made, at) == (3, 48)
        what, _, start, length = struct.unpack_from("<IIQQ", made, at + 24)
        pieces.append((what, start, start + length))
    assert pieces == [
        (7, 0, 0x800000), (0, 0x800000, 0x806000), (7, 0x806000, 0x809000),
        (0, 0x809000, 0x80B000), (7, 0x80B000, GIB), (7, 4 * GIB, 5 * GIB),
    ]  # fmt: skip


def test_what_is_not_known_is_qemus() -> None:
    assert [event.name for event in KNOWN if event.digest is None] == [ACPI] * 3
    with_disks = known_events(FIRMWARE, GIB, only_a_kernel=False)
    assert [event.name for event in with_disks if event.digest is None] == [ACPI] * 3 + list(BOOT)


def test_each_event_counts_in_its_place() -> None:
    acpi = [bytes([number]) * 48 for number in range(3)]
    value = bytes(48)
    left = iter(acpi)
    for event in KNOWN:
        value = hashlib.sha384(value + (event.digest or next(left))).digest()
    assert rtmr0(KNOWN, acpi) == value != rtmr0(KNOWN, acpi[::-1])


@pytest.fixture
def spec(tmp_path: Path) -> BootSpec:
    (tmp_path / "OVMF.fd").write_bytes(ovmf())
    (tmp_path / "kernel").touch()
    return BootSpec(
        coco="tdx", firmware=tmp_path / "OVMF.fd", kernel=tmp_path / "kernel", memory_bytes=GIB
    )


def log(*changed: int) -> list[LogEvent]:
    digests = [event.digest or b"a" * 48 for event in KNOWN]
    for number in changed:
        digests[number] = bytes(48)
    return [LogEvent(1, 1, digest, b"") for digest in digests]


def test_a_log_is_compared_with_what_is_known(spec: BootSpec) -> None:
    assert differing_events(spec, log()) == []
    assert differing_events(spec, log(0, 3, 9)) == ["hand-off blocks", "PK"]
    assert differing_events(spec, log()[:-1]) is None


def test_the_note_says_what_is_not_known(spec: BootSpec) -> None:
    (note,) = (one.note for one in predict(spec) if one.name == "RTMR0")
    assert note.startswith(
        "10 of its events are known; not ACPI DATA, which depend on the machine's"
    )
    (note,) = (one.note for one in predict(replace(spec, net=Net.USER)) if one.name == "RTMR0")
    assert "8 of its events are known; not ACPI DATA, BootOrder, Boot0000, which depend on" in note
