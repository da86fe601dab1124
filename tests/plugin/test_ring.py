# SPDX-License-Identifier: GPL-2.0-or-later
"""The event ring and its header, from both ends.  Races are in stress.c."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from cvmlab.memory.records import (
    RECORD,
    RECORDS_OFFSET,
    RING_LOSSLESS,
    SHARED_MAGIC,
    Kind,
    Phase,
    header_fault,
)
from cvmlab.memory.states import Event, PageState
from tests.plugin.conftest import MakeCore
from tests.plugin.core import CoreError


PAGES = 100


def one_record(gpa: int) -> NDArray[np.void]:
    record = np.zeros(1, RECORD)
    record["kind"], record["gpa"], record["seq"] = Kind.ACCEPT, gpa, 0xDEAD
    return record


def test_a_fresh_header_says_what_is_in_the_file(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=8, flags=1)
    assert header_fault(core.header) is None
    assert (core.header["capacity"], core.header["table_pages"], core.header["flags"]) == (
        8,
        PAGES,
        1,
    )
    assert core.page_counts[PageState.PENDING] == PAGES


def test_records_come_out_as_they_went_in_numbered_from_one(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=4)
    assert all(core.push(one_record(gpa)) for gpa in (0x1000, 0x2000, 0x3000))
    taken = core.drain()
    assert taken["seq"].tolist() == [1, 2, 3]
    assert taken["gpa"].tolist() == [0x1000, 0x2000, 0x3000]
    assert (taken["kind"] == Kind.ACCEPT).all()


def test_a_full_ring_drops_the_newest_and_counts_it(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=4)
    assert [core.push(one_record(gpa)) for gpa in range(6)] == [True] * 4 + [False] * 2
    assert core.header["dropped"] == 2
    assert core.drain()["gpa"].tolist() == [0, 1, 2, 3]
    assert core.push(one_record(6))
    assert core.drain()["seq"].tolist() == [5]


def test_the_ring_goes_round_many_times(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=2)
    for seq in range(1, 50):
        assert core.push(one_record(seq * 2))
        assert core.drain()[["seq", "gpa"]].tolist() == [(seq, seq * 2)]
    assert core.header["dropped"] == 0


@pytest.mark.parametrize("tail", [1, 5, 1 << 63, (1 << 64) - 1])
def test_a_tail_ahead_of_the_head_costs_records_not_memory(make_core: MakeCore, tail: int) -> None:
    core = make_core("generic", PAGES, records=2)
    core.header["tail"] = tail
    assert not core.push(one_record(1)) or tail == (1 << 64) - 1
    core.header["tail"] = core.header["head"]
    assert core.push(one_record(2))


@pytest.mark.fault("Q9")
@pytest.mark.parametrize("tail", [5, 1 << 63])
def test_a_lossless_ring_does_not_wait_for_a_reader_that_cannot_be(
    make_core: MakeCore, tail: int
) -> None:
    core = make_core("generic", PAGES, records=2, flags=RING_LOSSLESS)
    core.header["tail"] = tail
    started = time.monotonic()
    for gpa in range(50):  # a wait is a second, and each new tail would be waited for
        core.header["tail"] = tail + gpa
        assert not core.push(one_record(gpa))
    assert time.monotonic() - started < 1


@pytest.mark.fault("Q9")
def test_the_phase_in_the_header_is_not_read_back(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=2)
    core.header["phase"] = 77
    assert core.phase == Phase.LAUNCH
    assert not core.set_phase(Phase.KERNEL, Phase.USER)
    assert core.set_phase(Phase.LAUNCH, Phase.FIRMWARE)
    assert (core.phase, core.header["phase"]) == (Phase.FIRMWARE, Phase.FIRMWARE)
    # Only a process that takes the guest over reads it, and believes it if it is one.
    core.header["phase"] = Phase.KERNEL
    core.take_phase()
    assert core.phase == Phase.KERNEL
    core.header["phase"] = 77
    core.take_phase()
    assert core.phase == Phase.USER


@pytest.mark.fault("Q9")
def test_garbage_in_the_table_ends_every_walk(make_core: MakeCore) -> None:
    generator = np.random.default_rng(3)
    for profile in ("generic", "sw-protected", "tdx", "sev-snp"):
        core = make_core(profile, PAGES, records=2)
        for event in Event:
            core.table[:PAGES] = generator.integers(0, 256, PAGES, np.uint8)
            assert sum(count for _, count, _ in core.runs(0, PAGES)) == PAGES
            core.apply(0, PAGES, event)
            core.apply_page(PAGES - 1, event)
            core.touch(1)
            core.settle(0, PAGES)


def test_the_capacity_in_the_header_is_not_believed_again(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=2)
    core.header["capacity"] = 1 << 40
    assert [core.push(one_record(gpa)) for gpa in range(4)] == [True, True, False, False]


def test_a_second_process_takes_the_ring_over_as_it_is(make_core: MakeCore) -> None:
    first = make_core("generic", PAGES, records=8)
    first.apply(10, 5, Event.TO_SHARED)
    first.push(one_record(1))
    second = make_core("generic", PAGES, records=8, heir_of=first)
    assert [second.page_counts[state] for state in PageState] == [PAGES - 5, 0, 5, 0]
    assert second.push(one_record(2))
    assert second.drain()["seq"].tolist() == [1, 2]


def test_a_table_that_is_not_fresh_is_counted(make_core: MakeCore) -> None:
    first = make_core("generic", PAGES, records=8)
    first.apply(10, 5, Event.TO_SHARED)
    first.apply(0, 2, Event.LOAD)
    first.header["magic"] = 0
    second = make_core("generic", PAGES, records=8, heir_of=first)
    assert [second.page_counts[state] for state in PageState] == [PAGES - 7, 2, 5, 0]
    assert second.header["magic"] == SHARED_MAGIC


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("version", 1, "event ring has another version"),
        ("record_size", 32, "event ring has another version"),
        ("capacity", 4, "event ring's header and size do not match"),
        ("table_pages", 99, "event ring belongs to a guest of another size"),
        ("phase", 77, "event ring's header has no such phase"),
    ],
)
def test_a_ring_that_belongs_elsewhere_is_refused(
    make_core: MakeCore, field: str, value: int, fault: str
) -> None:
    first = make_core("generic", PAGES, records=8)
    first.header[field] = value
    with pytest.raises(CoreError) as caught:
        make_core("generic", PAGES, records=8, heir_of=first)
    assert str(caught.value) == fault


@pytest.mark.parametrize(
    ("profile", "pages", "records", "fault"),
    [
        ("enclave", PAGES, 8, "no such profile"),
        ("generic", 0, 8, "guest RAM has no pages, or too many"),
        ("generic", PAGES, 0, "event ring must be 4096 bytes and a power of two of records"),
        ("generic", PAGES, 1, "event ring must be 4096 bytes and a power of two of records"),
        ("generic", PAGES, 3, "event ring must be 4096 bytes and a power of two of records"),
    ],
)
def test_what_init_cannot_use_it_refuses(
    make_core: MakeCore, profile: str, pages: int, records: int, fault: str
) -> None:
    with pytest.raises(CoreError) as caught:
        make_core(profile, pages, records=records)
    assert str(caught.value) == fault


def test_records_start_one_page_into_the_file(make_core: MakeCore) -> None:
    core = make_core("generic", PAGES, records=2)
    core.push(one_record(0x42000))
    assert core.ring_file.bytes[RECORDS_OFFSET] == 1
    assert not core.ring_file.bytes[512:RECORDS_OFFSET].any()
