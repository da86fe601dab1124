# SPDX-License-Identifier: GPL-2.0-or-later
"""Event logs, made by hand; a guest's own is replayed in tests/guest."""

import hashlib
from struct import pack

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.measurement.event_log import events, replay
from tests.fakes.ovmf_images import event, event_log


FIRST = event_log()


def extended(*digests: bytes) -> bytes:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


A, B, C = (letter * 48 for letter in (b"a", b"b", b"c"))
LOG = event_log(
    event(1, 4, A), event(4, 0x80000008, B, b"x"), event(1, 13, C), event(1, 3, B)
)  # fmt: skip


@pytest.mark.parametrize("end", [b"", bytes(100), b"\xff" * 100, b"\0" * 3])
def test_registers_are_what_the_events_add_up_to(end: bytes) -> None:
    found = events(LOG + end)
    assert replay(found) == (extended(A, C), bytes(48), bytes(48), extended(B))
    assert [event.name for event in found[1:]] == [
        "EV_SEPARATOR", "EV_EFI_PLATFORM_FIRMWARE_BLOB", "EV_IPL", "EV_NO_ACTION",
    ]  # fmt: skip
    assert (found[2].rtmr, found[2].content) == (3, b"x")


def test_mrtd_is_no_rtmr() -> None:
    assert replay(events(FIRST + event(0, 4, A))) == (bytes(48),) * 4


def test_a_kind_without_a_name_has_its_number() -> None:
    assert events(FIRST + event(1, 0x1234, A))[1].name == "0x1234"


@pytest.mark.parametrize(
    "log",
    [
        b"", bytes(32), b"text" * 20, FIRST[:-20], LOG[:-10],
        FIRST + pack("<IIIH", 1, 4, 1, 0x99) + A, FIRST + pack("<III", 1, 4, 2**32 - 1),
        FIRST + event(1, 4, A)[:-4] + pack("<I", 2**32 - 1),
    ],
)  # fmt: skip
def test_what_is_no_log_is_refused(log: bytes) -> None:
    with pytest.raises(ConfigError, match="not an event log") as caught:
        events(log)
    assert "CCEL" in (caught.value.hint or "")
