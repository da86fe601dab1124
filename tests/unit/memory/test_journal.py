# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring's reader, against records written here as the plugin writes them."""

import asyncio
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cvmlab.base.errors import ConfigError, PluginError
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import Journal, JournalFile, Ring
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.records import (
    RECORD,
    RECORDS_OFFSET,
    SHARED,
    SHARED_MAGIC,
    SHARED_VERSION,
    Kind,
    Phase,
)
from cvmlab.memory.states import Layout
from cvmlab.memory.table import PageCounts


CAPACITY = 64


class Producer:
    """The plugin's side, by numpy: many records at once."""

    def __init__(self, fd: int, capacity: int) -> None:
        self._map = mmap.mmap(fd, 0)
        self.capacity = capacity
        self.header = np.frombuffer(self._map, SHARED, 1)
        self.records = np.frombuffer(self._map, RECORD, capacity, RECORDS_OFFSET)
        self.header["version"] = SHARED_VERSION
        self.header["record_size"] = RECORD.itemsize
        self.header["capacity"] = capacity
        self.header["magic"] = SHARED_MAGIC

    def push(self, count: int, kind: int = Kind.ACCEPT, *, gpa: int | None = None) -> None:
        head = int(self.header["head"][0])
        assert head + count - int(self.header["tail"][0]) <= self.capacity
        slots = np.arange(head, head + count) % self.capacity
        self.records["kind"][slots] = kind
        self.records["gpa"][slots] = np.arange(head, head + count) * 4096 if gpa is None else gpa
        self.header["head"] = head + count
        self.records["seq"][slots] = np.arange(head + 1, head + count + 1)

    def close(self) -> None:
        del self.header, self.records
        self._map.close()


@pytest.fixture
def files() -> Iterator[RestrictedFiles]:
    with RestrictedFiles.create(1 << 20, layout=Layout.IN_PLACE, ring_records=CAPACITY) as made:
        yield made


@pytest.fixture
def producer(files: RestrictedFiles) -> Iterator[Producer]:
    with closing(Producer(files.fds.ring, CAPACITY)) as made:
        yield made


@pytest.fixture
def ring(files: RestrictedFiles, producer: Producer) -> Iterator[Ring]:
    with closing(Ring(files.fds.ring)) as made:
        yield made


@pytest.fixture
def journal(ring: Ring, tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(ring, tmp_path / "events.bin")) as made:
        yield made


def test_records_arrive_in_order_across_many_laps(journal: Journal, producer: Producer) -> None:
    for count in (1, 63, 64, 0, 37, 50, 64, 2):
        producer.push(count)
        assert journal.drain() == count
    on_disk = JournalFile(journal.path)
    assert on_disk.records["seq"].tolist() == list(range(1, 282))
    assert on_disk.records["gpa"].tolist() == [n * 4096 for n in range(281)]
    assert on_disk.gaps() == 0
    assert on_disk.torn_bytes == 0
    assert journal.total == len(on_disk) == 281


def test_counts_go_by_kind(journal: Journal, producer: Producer) -> None:
    producer.push(5, Kind.ACCEPT)
    producer.push(3, Kind.CONVERT)
    journal.drain()
    assert (journal.count(Kind.ACCEPT), journal.count(Kind.CONVERT)) == (5, 3)
    on_disk = JournalFile(journal.path)
    assert on_disk.by_kind() == {Kind.ACCEPT: 5, Kind.CONVERT: 3}
    assert len(on_disk.of_kind(Kind.CONVERT)) == 3


def test_an_unpublished_record_holds_back_what_follows_it(
    journal: Journal, producer: Producer
) -> None:
    producer.push(10)
    producer.records["seq"][4] = 0
    assert journal.drain() == 4
    assert journal.drain() == 0
    producer.records["seq"][4] = 5
    assert journal.drain() == 6


def test_at_the_end_an_unpublished_record_is_skipped_and_counted(
    journal: Journal, producer: Producer
) -> None:
    producer.push(10)
    producer.records["seq"][[4, 5, 9]] = 0
    journal.finish()
    assert (journal.total, journal.unpublished) == (7, 3)
    assert JournalFile(journal.path).gaps() == 2  # the last one is no gap: nothing follows it


@pytest.mark.parametrize(
    ("slot", "field", "value", "message"),
    [
        (3, "kind", 0, "record 4 is of unknown kind 0"),
        (3, "kind", 200, "record 4 is of unknown kind 200"),
        (3, "actor", 6, "record 4 has the unknown number 6 as its actor"),
        (3, "from", 4, "record 4 has the unknown number 4 as its from"),
        (3, "verdict", 5, "record 4 has the unknown number 5 as its verdict"),
        (3, "refusal", 6, "record 4 has the unknown number 6 as its refusal"),
        (3, "seq", 77, "record 4 carries the number 77"),
        (3, "seq", 3, "record 4 carries the number 3"),
    ],
)
def test_what_precedes_a_garbled_record_is_kept(
    journal: Journal, producer: Producer, slot: int, field: str, value: int, message: str
) -> None:
    producer.push(8)
    producer.records[field][slot] = value
    with pytest.raises(PluginError, match=message):
        journal.drain()
    assert len(JournalFile(journal.path)) == 3


@pytest.mark.parametrize("head", [CAPACITY + 1, 1 << 63])
def test_a_ring_that_holds_more_than_it_can_is_told(
    journal: Journal, producer: Producer, head: int
) -> None:
    producer.header["head"] = head
    with pytest.raises(PluginError, match=f"claims to hold {head} records"):
        journal.drain()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", 0, "no header"),
        ("version", 1, "version 1"),
        ("record_size", 128, "128"),
        ("capacity", 128, "says it holds 128 records"),
    ],
)
def test_a_ring_of_another_plugin_is_refused(
    ring: Ring, producer: Producer, field: str, value: int, message: str
) -> None:
    ring.require_header()
    producer.header[field] = value
    with pytest.raises(PluginError, match=message) as caught:
        ring.require_header()
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 4096, 4096 + 64, 4096 + 3 * 64])
def test_a_file_too_short_for_a_ring_is_refused(size: int) -> None:
    fd = os.memfd_create("ring")
    try:
        os.ftruncate(fd, size)
        with pytest.raises(PluginError, match="is truncated"):
            Ring(fd)
    finally:
        os.close(fd)


def test_a_ring_truncated_while_in_use_is_told_before_it_is_touched(tmp_path: Path) -> None:
    fd = os.memfd_create("ring")
    try:
        os.ftruncate(fd, 4096 + 64 * 64)
        with closing(Ring(fd)) as ring, closing(Journal(ring, tmp_path / "events")) as journal:
            os.ftruncate(fd, 0)
            with pytest.raises(PluginError, match="truncated from 8192 to 0 bytes"):
                journal.drain()
    finally:
        os.close(fd)


def test_the_header_gives_counts_counters_and_phase(ring: Ring, producer: Producer) -> None:
    producer.header["pages"] = [[5, 6, 7, 8]]
    producer.header["counters"][0, MEASURES.slots["host_faults"]] = 9
    producer.header["phase"] = Phase.KERNEL
    producer.header["dropped"] = 4
    assert ring.page_counts() == PageCounts(5, 6, 7, 8)
    assert ring.counters()["host_faults"] == 9
    assert ring.phase is Phase.KERNEL
    assert ring.dropped == 4


def test_the_first_host_faults_are_kept(journal: Journal, producer: Producer) -> None:
    for _ in range(3):
        producer.push(30, Kind.HOST_FAULT)
        producer.push(10)
        journal.drain()
    assert len(journal.first_faults) == 64
    assert int(journal.first_faults[30]["seq"]) == 41


async def test_a_slow_subscriber_is_told_what_it_missed_and_the_file_has_it(
    journal: Journal, producer: Producer
) -> None:
    with journal.subscribe(limit=2) as slow, journal.subscribe() as fast:
        for _ in range(5):
            producer.push(20)
            journal.drain()
        journal.finish()
        assert [len(batch) async for batch in slow] == [20, 20]
        assert slow.missed == 60
        assert sum([len(batch) async for batch in fast]) == 100
        assert fast.missed == 0
    assert len(JournalFile(journal.path)) == 100


async def test_a_batch_outlives_the_room_it_had_in_the_ring(
    journal: Journal, producer: Producer
) -> None:
    with journal.subscribe() as batches:
        producer.push(CAPACITY)
        journal.drain()
        producer.push(CAPACITY)
        batch = await anext(batches)
        assert batch["seq"].tolist() == list(range(1, CAPACITY + 1))


async def test_follow_drains_by_itself(journal: Journal, producer: Producer) -> None:
    with journal.subscribe() as batches:
        task = asyncio.create_task(journal.follow())
        for _ in range(3):
            producer.push(CAPACITY)
            got = 0
            async with asyncio.timeout(5):
                while got < CAPACITY:
                    got += len(await anext(batches))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert journal.total == 3 * CAPACITY


def test_a_full_disk_is_one_clear_sentence(ring: Ring, producer: Producer) -> None:
    with closing(Journal(ring, Path("/dev/full"))) as journal:
        producer.push(1)
        with pytest.raises(ConfigError) as caught:
            journal.drain()
    assert caught.value.message == (
        f"the journal /dev/full cannot be written: {os.strerror(errno.ENOSPC)}"
    )
    assert "--run-dir" in str(caught.value.hint)


def test_a_torn_tail_is_left_out_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "events.bin"
    records = np.zeros(3, RECORD)
    records["seq"] = [1, 2, 3]
    path.write_bytes(records.tobytes()[:-10])
    journal = JournalFile(path)
    assert (len(journal), journal.torn_bytes) == (2, 54)


def test_an_empty_journal_is_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "events.bin"
    path.touch()
    journal = JournalFile(path)
    assert (len(journal), journal.gaps(), journal.by_kind()) == (0, 0, {})
    with pytest.raises(ConfigError, match="no journal"):
        JournalFile(tmp_path / "none")
