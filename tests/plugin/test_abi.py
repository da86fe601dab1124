# SPDX-License-Identifier: GPL-2.0-or-later
"""Every number of rmem.h that Python repeats is the one the compiler sees."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab import records, states
from cvmlab.ranges import PAGE_SIZE
from cvmlab.records import RECORD, SHARED, Actor, Kind, Phase, Verdict
from cvmlab.states import COUNTER_SLOTS, Counter, Event, Named, PageState, Refusal
from tests.plugin.core import Library


ENUMS: dict[type[Named], tuple[str, str | None]] = {
    PageState: ("RMEM_", "RMEM_STATES"),
    Event: ("RMEM_", "RMEM_EVENTS"),
    Refusal: ("RMEM_", "RMEM_REFUSALS"),
    Counter: ("RMEM_C_", None),
    Kind: ("RMEM_K_", "RMEM_KINDS"),
    Actor: ("RMEM_A_", "RMEM_ACTORS"),
    Phase: ("RMEM_PH_", "RMEM_PHASES"),
    Verdict: ("RMEM_V_", "RMEM_VERDICTS"),
}
CONSTANTS = {
    "sizeof(RmemRecord)": RECORD.itemsize,
    "sizeof(RmemShared)": SHARED.itemsize,
    "RMEM_COUNTERS": COUNTER_SLOTS,
    "RMEM_PAGE_SIZE": PAGE_SIZE,
    "RMEM_STATE_MASK": states.STATE_MASK,
    "RMEM_LAUNCH": states.LAUNCH_FLAG,
    "RMEM_STALE": states.STALE_FLAG,
    "RMEM_F_WRITE": records.FLAG_WRITE,
    "RMEM_NO_VCPU": records.NO_VCPU,
    "RMEM_NO_DEVICE": records.NO_DEVICE,
    "RMEM_SHARED_MAGIC": records.SHARED_MAGIC,
    "RMEM_SHARED_VERSION": records.SHARED_VERSION,
    "RMEM_RECORDS_OFFSET": records.RECORDS_OFFSET,
    "RMEM_RING_LOSSLESS": records.RING_LOSSLESS,
}


@pytest.fixture(scope="module")
def compiled(layout_program: Path) -> dict[str, tuple[int, ...]]:
    """Return what the compiler says: name -> (offset, size) or (value,)."""
    out = subprocess.run([layout_program], check=True, capture_output=True, text=True).stdout
    return {
        name: tuple(map(int, numbers))
        for name, *numbers in (row.split() for row in out.splitlines())
    }


def expected_fields() -> Iterator[tuple[str, tuple[int, ...]]]:
    for struct, dtype in (("RmemRecord", RECORD), ("RmemShared", SHARED)):
        for name, (kind, offset, *_) in (dtype.fields or {}).items():
            yield f"{struct}.{name}", (offset, kind.itemsize)


def expected_numbers() -> Iterator[tuple[str, tuple[int, ...]]]:
    for enum, (prefix, end) in ENUMS.items():
        for member in enum:
            yield prefix + member.name, (member.value,)
        if end is not None:
            yield end, (len(enum),)
    for name, value in CONSTANTS.items():
        yield name, (value,)


def test_python_and_the_compiler_agree_on_every_offset_and_number(
    compiled: dict[str, tuple[int, ...]],
) -> None:
    assert {**dict(expected_fields()), **dict(expected_numbers())} == compiled


@pytest.mark.parametrize(
    ("enum", "function"),
    [
        (PageState, "rmem_state_name"),
        (Event, "rmem_event_name"),
        (Refusal, "rmem_refusal_name"),
    ],
)
def test_both_sides_use_the_same_words(library: Library, enum: type[Named], function: str) -> None:
    name = getattr(library.c, function)
    assert [name(member).decode() for member in enum] == [member.word for member in enum]
    assert name(len(enum)) == name(255) == b"unknown"
