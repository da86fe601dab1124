# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM as a publisher reads it: the journal from the file, the counts from shared memory.

The file is the queue: it holds what a slow or absent receiver has not taken yet.  So no guest waits
for a receiver, and no memory fills up.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, final

import numpy as np

from cvmlab.base.errors import CvmError
from cvmlab.memory.counting import RunningCount
from cvmlab.memory.journal import Records
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import RECORD, Phase
from cvmlab.memory.table import PageCounts
from cvmlab.vm.operations import BackendInfo, Content, RangesLike, Target


READ_RECORDS = 1 << 14  # 1 MiB


class RunFolder(Protocol):
    @property
    def path(self) -> Path: ...


class Counted(Protocol):
    """The part of Pages that is published."""

    @property
    def phase(self) -> Phase: ...
    def counts(self) -> PageCounts: ...
    def counters(self) -> Mapping[str, int]: ...


class Watched(Protocol):
    """What Vm and AttachedVm have in common."""

    @property
    def name(self) -> str: ...
    @property
    def run(self) -> RunFolder: ...
    @property
    def pages(self) -> Counted: ...

    async def query(self) -> BackendInfo: ...
    async def convert(
        self, ranges: RangesLike, to: Target | str, *, content: Content | str | None = ...
    ) -> int: ...
    async def pause(self) -> None: ...
    async def cont(self) -> None: ...
    async def stop(self) -> Any: ...


@final
class Feed:
    """Reads one VM's journal in order.  Use it in a ``with`` block."""

    def __init__(self, vm: Watched, measures: Measures = MEASURES) -> None:
        self.vm = vm
        self.position = 0  # records before it have been processed
        self._recorded = RunningCount(measures.recorded)
        self._devices: dict[int, str] = {}
        self._file = os.open(vm.run.path / "events.bin", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def read(self) -> Records:
        """Return records from ``position`` on, at most 16384; the file may be unlinked by now."""
        size = RECORD.itemsize
        data = os.pread(self._file, READ_RECORDS * size, self.position * size)
        return np.frombuffer(data[: len(data) // size * size], RECORD)

    def done(self, records: Records) -> None:
        """Go on after *records*, which read() returned."""
        self.position += len(records)
        self._recorded.add(records)

    def read_on(self) -> None:
        """Process all records there are now, for their counts."""
        while len(records := self.read()):
            self.done(records)

    def counters(self) -> dict[str, int]:
        """Return the plugin's counters, and the counts that only the journal tells, so far."""
        return {**self.vm.pages.counters(), **self._recorded.counts}

    @property
    def waiting(self) -> int:
        """Records behind ``position``."""
        return os.fstat(self._file).st_size // RECORD.itemsize - self.position

    async def devices(self, wanted: set[int]) -> Mapping[int, str]:
        """Return names of devices; asks QEMU only for those never seen before."""
        if not wanted <= self._devices.keys():
            try:
                self._devices |= (await self.vm.query()).devices
            except CvmError:  # the VM has ended; numbers will do
                self._devices |= {number: f"#{number}" for number in wanted - set(self._devices)}
        return self._devices
