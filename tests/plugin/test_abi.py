# SPDX-License-Identifier: GPL-2.0-or-later
"""Every number of rmem.h that Python repeats is the one the compiler sees."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.memory import records, stacks, states
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import RECORD, SHARED, Actor, GuestExit, Kind, Phase, Verdict
from cvmlab.memory.states import COUNTER_SLOTS, Event, Named, PageState, RefusalCode
from tests.plugin.core import Library


ENUMS: dict[type[Named], tuple[str, str | None]] = {
    PageState: ("RMEM_", "RMEM_STATES"),
    Event: ("RMEM_", "RMEM_EVENTS"),
    RefusalCode: ("RMEM_", "RMEM_REFUSALS"),
    Kind: ("RMEM_K_", "RMEM_KINDS"),
    Actor: ("RMEM_A_", "RMEM_ACTORS"),
    Phase: ("RMEM_PH_", "RMEM_PHASES"),
    Verdict: ("RMEM_V_", "RMEM_VERDICTS"),
    GuestExit: ("RMEM_X_", "RMEM_EXITS"),
}
CONSTANTS = {
    "sizeof(RmemRecord)": RECORD.itemsize,
    "sizeof(RmemShared)": SHARED.itemsize,
    "RMEM_COUNTERS": COUNTER_SLOTS,
    "RMEM_PAGE_SIZE": PAGE_SIZE,
    "RMEM_STATE_MASK": states.STATE_MASK,
    "RMEM_LAUNCH": states.LAUNCH_FLAG,
    "RMEM_STALE": states.STALE_FLAG,
    **{
        f"RMEM_F_{name}": getattr(records, f"FLAG_{name}")
        for name in (
            "WRITE",
            "FETCH",
            "WALK",
            "AS_PRIVATE",
            "AS_SHARED",
            "ACCEPTING",
            "IMPLICIT",
            "STATE",
            "EXIT_SHIFT",
        )
    },
    "RMEM_STACKS_MAGIC": stacks.STACKS_MAGIC,
    "RMEM_STACKS_VERSION": stacks.STACKS_VERSION,
    "RMEM_STACKS_OFFSET": stacks.STACKS_OFFSET,
    "RMEM_STACKS": stacks.STACKS,
    "RMEM_STACK_WORDS": stacks.STACK_WORDS,
    "RMEM_STACK_SPAN": stacks.STACK_SPAN,
    "RMEM_STACKS_BYTES": stacks.STACKS_BYTES,
    "sizeof(RmemStack)": stacks.STACK.itemsize,
    "sizeof(RmemStacksHeader)": stacks.HEADER.itemsize,
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
    structs = {
        "RmemRecord": RECORD,
        "RmemShared": SHARED,
        "RmemStacksHeader": stacks.HEADER,
        "RmemStack": stacks.STACK,
    }
    for struct, dtype in structs.items():
        for name, (kind, offset, *_) in (dtype.fields or {}).items():
            yield f"{struct}.{name}", (offset, kind.itemsize)


def expected_numbers() -> Iterator[tuple[str, tuple[int, ...]]]:
    for enum, (prefix, end) in ENUMS.items():
        for member in enum:
            yield prefix + member.name, (member.value,)
        if end is not None:
            yield end, (len(enum),)
    for name, slot in MEASURES.slots.items():
        yield f"RMEM_C_{name.upper()}", (slot,)
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
        (RefusalCode, "rmem_refusal_name"),
    ],
)
def test_both_sides_use_the_same_words(library: Library, enum: type[Named], function: str) -> None:
    name = getattr(library.c, function)
    assert [name(member).decode() for member in enum] == [member.word for member in enum]
    assert name(len(enum)) == name(255) == b"unknown"
