# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: all events of the plugin, read from the ring in shared memory, written to a file.

The plugin writes and one Python task reads; neither waits for the other, unless the ring is lossless.
Records are handled in batches, as numpy arrays, never one by one.
"""

import asyncio
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from cvmlab.base.channel import Subscription, Topic
from cvmlab.base.errors import ConfigError, PluginError, VmExited
from cvmlab.memory.garbled import garbled, garbled_by
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import (
    RECORD,
    RECORDS_OFFSET,
    SHARED,
    Kind,
    Past,
    Phase,
    header_fault,
    host_faults,
    pieces,
    standing,
)
from cvmlab.memory.table import PageCounts


Records = NDArray[np.void]
MIN_INTERVAL_S = 0.001
MAX_INTERVAL_S = 0.020
FIRST_FAULTS = 64
_BATCH_RECORDS = 1 << 15
_KINDS = len(Kind)
_MAPPED = ("_header", "_records", "_seq", "_map")
_ENDED_HINT = "read them inside the `with` block of the VM"
_VERSIONS_HINT = "QEMU and cvmlab may be of different versions: run `cvmlab build`"


@final
class Ring:
    """The reader's end of the event ring.  One reader per ring; close() unmaps it."""

    def __init__(self, fd: int) -> None:
        """Map the ring file *fd*, which the caller keeps; its header may still be all zero."""
        size = os.fstat(fd).st_size
        capacity = (size - RECORDS_OFFSET) // RECORD.itemsize
        if capacity < 2 or capacity & (capacity - 1):
            raise PluginError(f"the event ring file is truncated: {size} bytes hold no ring")
        self.capacity = capacity
        self._fd = fd
        self._size = size
        self._map = mmap.mmap(fd, size)
        self._header = np.frombuffer(self._map, SHARED, count=1)
        self._records: Records = np.frombuffer(
            self._map, RECORD, count=capacity, offset=RECORDS_OFFSET
        )
        self._seq = self._records["seq"]
        self._tail = int(self._header["tail"][0])

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what close() has removed: this costs nothing while it is there."""
            if name in _MAPPED:
                raise VmExited("the VM has ended, and its counts with it", hint=_ENDED_HINT)
            raise AttributeError(name)

    def close(self) -> None:
        # Delete the arrays first: a mapping with an exported buffer cannot be closed.
        mapped = self._map
        del self._header, self._records, self._seq, self._map
        with suppress(BufferError):  # a batch is still in use: the last one unmaps the ring
            mapped.close()

    def _field(self, name: str) -> int:
        return int(self._header[name][0])

    @property
    def dropped(self) -> int:
        """Records lost because the ring was full."""
        return self._field("dropped")

    @property
    def claimed(self) -> int:
        """Records that producers have begun to write."""
        return self._field("head")

    @property
    def owner(self) -> int:
        """The process that may run the guest; 0 during a handover from one to another."""
        return self._field("owner")

    @property
    def phase(self) -> Phase:
        """The guest's boot phase."""
        return Phase(self._field("phase"))

    def page_counts(self) -> PageCounts:
        """Return the plugin's own counts: current, and without a scan of the table."""
        return PageCounts(*self._header["pages"][0].tolist())

    def counters(self, measures: Measures = MEASURES) -> dict[str, int]:
        """Return the plugin's counters, by the names of *measures*."""
        values = self._header["counters"][0].tolist()
        counted = {name: values[slot] for name, slot in measures.slots.items()}
        return counted | {row.name: self._field(row.field) for row in measures if row.field}

    def require_header(self) -> None:
        """Raise PluginError unless the plugin has initialized the ring in the format read here."""
        fault = header_fault(self._header[0])
        if fault is None and self._field("capacity") != self.capacity:
            fault = f"the event ring says it holds {self._field('capacity')} records"
        if fault is not None:
            raise PluginError(fault, hint=_VERSIONS_HINT)

    def peek(self) -> Records:
        """Return a view of the oldest unread records, empty if there are none.

        The view is valid until consume().  Raise PluginError if the records make no sense.
        """
        start = self._tail & (self.capacity - 1)
        limit = min(self.waiting, _BATCH_RECORDS, self.capacity - start)
        expected = np.arange(self._tail + 1, self._tail + 1 + limit, dtype=np.uint64)
        published = self._seq[start : start + limit] == expected
        count = limit if published.all() else int(published.argmin())
        if count == 0 and limit:
            self._check_unpublished(start, self._tail + 1)
        return self._sensible(self._records[start : start + count])

    def consume(self, count: int) -> None:
        """Free the space of *count* records for the producers."""
        self._tail += count
        self._header["tail"][0] = self._tail

    def skip_unpublished(self) -> int:
        """Skip one record that was claimed but never published; return the number skipped (0 or 1).

        Call it only after the producers have ended.
        """
        if self.claimed <= self._tail:
            return 0
        self.consume(1)
        return 1

    @property
    def waiting(self) -> int:
        """Records claimed and not read."""
        waiting = self.claimed - self._tail
        if not 0 <= waiting <= self.capacity:
            raise PluginError(f"the event ring is garbled: it claims to hold {waiting} records")
        return waiting

    def _check_unpublished(self, slot: int, expected: int) -> None:
        found = int(self._seq[slot])
        # The record may have been published since the check.
        if found not in (0, expected) and (found > expected or (expected - found) % self.capacity):
            raise PluginError(
                f"the event ring is garbled: record {expected} carries the number {found}"
            )

    def _sensible(self, batch: Records) -> Records:
        """Return the part of *batch* before the first garbled record; raise if it is empty."""
        bad = garbled(batch)
        if not bad.any():
            return batch
        good = int(bad.argmax())
        if good == 0:
            raise PluginError(
                f"the event ring is garbled: record {batch['seq'][0]} {garbled_by(batch[0])}",
                hint=_VERSIONS_HINT,
            )
        return batch[:good]

    def check_size(self) -> None:
        """Raise PluginError if the file has become shorter than the mapping, which may then fault."""
        if (size := os.fstat(self._fd).st_size) < self._size:
            raise PluginError(
                f"the event ring file was truncated from {self._size} to {size} bytes"
            )


@final
class Journal:
    """Moves records from a ring to ``events.bin`` and to subscribers.

    Every record of the ring reaches the file, in order; ``unpublished`` counts those that a dying
    QEMU did not finish, ``ring.dropped`` those for which the ring had no space.
    """

    def __init__(self, ring: Ring, path: Path) -> None:
        self.ring = ring
        self.path = path
        self.by_kind = np.zeros(_KINDS, np.int64)
        self.total = 0  # records read so far
        self.unpublished = 0
        self._past: Past[NDArray[np.int64]] = Past()
        self.first_faults: list[np.void] = []
        self._topic: Topic[Records] = Topic()
        self._file = _writing(path, lambda: os.open(path, _APPEND, 0o644))

    def count(self, kind: Kind) -> int:
        return int(self.by_kind[kind])

    def recall(self, records: Records) -> None:
        """Count *records*, which are in the file already: those of a VM that goes on here."""
        self.total += len(records)
        self._count(records)
        self.first_faults.extend(records[host_faults(records)][:FIRST_FAULTS])

    def subscribe(self, limit: int = 64) -> Subscription[Records]:
        """Return an iterator over batches from now on; ``missed`` counts records, not batches.

        Use it in a ``with`` block.
        """
        return self._topic.subscribe(limit)

    def drain(self) -> int:
        """Move the records that are in the ring now; return their number.

        Records added meanwhile are left to the next call, so that a busy producer neither starves
        the event loop nor floods subscribers with tiny batches.
        """
        self.ring.check_size()
        moved, waiting = 0, self.ring.waiting
        while moved < waiting and len(batch := self.ring.peek()):
            self._store(batch)
            self.ring.consume(len(batch))
            moved += len(batch)
        return moved

    async def follow(self) -> None:
        """Drain the ring until cancelled.

        The plugin wakes nobody, because a system call per record would slow the vCPUs down.  So poll
        often while there are many records, and seldom while there are few.
        """
        interval = MIN_INTERVAL_S
        while True:
            if self.drain() > self.ring.capacity // 16:
                interval = MIN_INTERVAL_S
            else:
                interval = min(interval * 1.5, MAX_INTERVAL_S)
            await asyncio.sleep(interval)

    def finish(self) -> None:
        """Read the rest after QEMU has ended, and end all subscriptions."""
        while self.drain() or self._skip():
            pass
        self._topic.close()

    def close(self) -> None:
        self._topic.close()
        os.close(self._file)

    def _skip(self) -> int:
        skipped = self.ring.skip_unpublished()
        self.unpublished += skipped
        return skipped

    def _store(self, batch: Records) -> None:
        data = batch.view(np.uint8).data
        while data:
            written = _writing(self.path, partial(os.write, self._file, data))
            data = data[written:]
        self.total += len(batch)
        self._count(batch)
        room = FIRST_FAULTS - len(self.first_faults)
        if room > 0 and (batch["kind"] == Kind.HOST_FAULT).any():
            self.first_faults.extend(batch[host_faults(batch)][:room])
        if self._topic:
            self._topic.publish(batch.copy(), weight=len(batch))

    def _count(self, batch: Records) -> None:
        """Add to the counts; a rewind takes them back to what they were at its checkpoint."""
        for piece in pieces(batch):
            self.by_kind += np.bincount(piece["kind"], minlength=_KINDS)
            if len(piece):
                self.by_kind = self._past.after(piece[-1], self.by_kind)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def _writing(path: Path, write: Callable[[], int]) -> int:
    try:
        return write()
    except OSError as error:
        raise ConfigError(
            f"the journal {path} cannot be written: {error.strerror}",
            hint="free some space, or choose another folder with --run-dir",
        ) from error


@final
class JournalFile:
    """Reads ``events.bin``, without an incomplete last record that a killed controller left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"no journal {path}: {error.strerror}") from error
        count, self.torn_bytes = divmod(size, RECORD.itemsize)
        self.written: Records = (
            np.memmap(path, RECORD, mode="r", shape=(count,)) if count else np.empty(0, RECORD)
        )
        # Without what a rewind has undone.
        self.records: Records = standing(self.written)

    def __len__(self) -> int:
        return len(self.records)

    def require_sense(self) -> None:
        """Raise ConfigError if this is not a journal, or if it is damaged."""
        wrong = np.flatnonzero(garbled(self.written))
        if len(wrong) or (self.torn_bytes and not len(self)):
            which = "it is cut short"
            if len(wrong):
                which = f"record {wrong[0]} {garbled_by(self.written[wrong[0]])}"
            raise ConfigError(
                f"{self.path} is not a journal of cvmlab: {which}", hint="run the guest again"
            )

    def of_kind(self, kind: Kind) -> Records:
        chosen: Records = self.records[self.records["kind"] == kind]
        return chosen

    def by_kind(self) -> dict[Kind, int]:
        counts = np.bincount(self.records["kind"], minlength=_KINDS)
        return {kind: int(counts[kind]) for kind in Kind if counts[kind]}

    def gaps(self) -> int:
        """Return how many sequence numbers are missing between the first record and the last."""
        if not len(self.written):
            return 0
        seq = self.written["seq"]
        return int(seq[-1]) - int(seq[0]) + 1 - len(seq)
