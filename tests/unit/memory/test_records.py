# SPDX-License-Identifier: GPL-2.0-or-later
"""What people read of a record, and what a reader makes of the ring file's bytes."""

import numpy as np
import pytest

from cvmlab.memory.records import (
    FLAG_STATE,
    FLAG_WRITE,
    NO_DEVICE,
    NO_VCPU,
    RECORD,
    RECORDS_OFFSET,
    SHARED,
    SHARED_MAGIC,
    SHARED_VERSION,
    Actor,
    GuestExit,
    Kind,
    Phase,
    Verdict,
    describe,
    header_fault,
    named_actor,
    views,
    who,
)
from cvmlab.memory.states import PageState, RefusalCode


def record(kind: Kind, **fields: int) -> np.void:
    values = {"vcpu": NO_VCPU, "device": NO_DEVICE, "kind": int(kind), **fields}
    one: np.void = np.zeros(1, RECORD)[0]
    for name, value in values.items():
        one[name.rstrip("_")] = value
    return one


CONVERT = record(
    Kind.CONVERT,
    vtime_ns=1_250_000_000,
    gpa=0x200000,
    pages=512,
    vcpu=1,
    from_=PageState.PRIVATE,
    to=PageState.SHARED,
    rip=0xFFFF_FFFF_8100_0000,
)
READ = record(
    Kind.HOST_FAULT,
    actor=Actor.DEVICE,
    device=2,
    gpa=0x1234,
    from_=PageState.PRIVATE,
    verdict=Verdict.ZERO,
)


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            CONVERT,
            "    1.250000 vcpu 1 convert 0x200000+2M private -> shared at 0xffffffff81000000",
        ),
        (
            record(Kind.ACCEPT, actor=Actor.HOST, gpa=0x1000, pages=1, to=PageState.PRIVATE),
            "    0.000000 host accept 0x1000+4K pending -> private",
        ),
        (READ, "    0.000000 device nic0 read private 0x1234: zero"),
        (
            record(Kind.HOST_FAULT, actor=Actor.GDB, flags=FLAG_WRITE, from_=PageState.POISONED),
            "    0.000000 gdb wrote poisoned 0x0: deny",
        ),
        (
            record(Kind.HOST_FAULT, actor=Actor.MONITOR, flags=FLAG_STATE),
            "    0.000000 monitor read CPU state: deny",
        ),
        (
            record(Kind.GUEST_FAULT, vcpu=0, gpa=0x5000, rip=0x10),
            "    0.000000 vcpu 0 faulted on pending 0x5000 at 0x10",
        ),
        (
            record(Kind.VIOLATION, vcpu=0, gpa=0, pages=2, refusal=RefusalCode.NOT_PRIVATE),
            "    0.000000 vcpu 0 was refused 0x0+8K: not-private",
        ),
        (record(Kind.VIOLATION, vcpu=3), "    0.000000 vcpu 3 was refused nothing: ok"),
        (record(Kind.PHASE, flags=Phase.KERNEL), "    0.000000 phase kernel begins"),
        (record(Kind.RESET), "    0.000000 the guest was reset: all pages are pending"),
        (
            record(Kind.INVALIDATE, actor=Actor.MONITOR, pages=1, gpa=0x1000),
            "    0.000000 monitor invalidate start 0x1000+4K",
        ),
        (
            record(Kind.INVALIDATE, actor=Actor.MONITOR, pages=1, gpa=0x1000, flags=1),
            "    0.000000 monitor invalidate end 0x1000+4K",
        ),
        (
            record(Kind.POLICY, actor=Actor.MONITOR, verdict=Verdict.STOP),
            "    0.000000 monitor set the access policy to stop",
        ),
        (
            record(Kind.EXIT, vcpu=0, gpa=0x8B, flags=GuestExit.REGISTER << 1, rip=0x10),
            "    0.000000 vcpu 0 executed RDMSR 0x8b, which a host answers on hardware at 0x10",
        ),
        (
            record(Kind.EXIT, vcpu=0, gpa=0x43, flags=GuestExit.PORT << 1 | FLAG_WRITE),
            "    0.000000 vcpu 0 executed OUT 0x43, which a host answers on hardware",
        ),
        (
            record(Kind.EXIT, vcpu=0, gpa=0x40000000, flags=GuestExit.IDENTIFY << 1),
            "    0.000000 vcpu 0 executed CPUID 0x40000000, which a host answers on hardware",
        ),
        (record(Kind.NONE), "    0.000000 nothing"),
    ],
)
def test_a_record_reads_as_a_sentence(one: np.void, line: str) -> None:
    assert describe(one, {2: "nic0"}) == line


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_sentence(kind: Kind) -> None:
    assert describe(record(kind, pages=1)).strip()


def test_a_device_without_a_name_is_a_number() -> None:
    assert who(READ) == "device #2"
    assert who(record(Kind.ACCEPT, actor=Actor.VCPU)) == "vcpu"


def ring_of(records: int) -> bytearray:
    return bytearray(RECORDS_OFFSET + records * RECORD.itemsize)


def test_views_share_the_memory_of_the_ring() -> None:
    ring = ring_of(4)
    header, records = views(memoryview(ring))
    header["tail"] = 7
    records["gpa"][3] = 0x1122
    assert ring[128] == 7
    assert ring[RECORDS_OFFSET + 3 * 64 + 24 :][:2] == b"\x22\x11"
    assert len(records) == 4


def header(**fields: int) -> np.void:
    one: np.void = np.zeros(1, SHARED)[0]
    good = {"magic": SHARED_MAGIC, "version": SHARED_VERSION, "record_size": 64}
    for name, value in {**good, **fields}.items():
        one[name] = value
    return one


@pytest.mark.parametrize(
    ("one", "fault"),
    [
        (header(), None),
        (header(magic=0), "the event ring has no header yet"),
        (header(version=1), "the event ring has version 1, not 2"),
        (header(record_size=32), "the event ring has records of 32 bytes, not 64"),
    ],
)
def test_a_header_of_another_kind_is_told_apart(one: np.void, fault: str | None) -> None:
    assert header_fault(one) == fault


def test_an_actor_without_a_name_of_its_own_is_said_once() -> None:
    assert named_actor("monitor", "monitor") == named_actor("monitor", None) == "monitor"
    assert named_actor("device", "net0") == "device net0"
