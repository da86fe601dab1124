# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM as a publisher reads it: the journal from the file, the counts from shared memory.

The file is the queue: it holds whatever a slow or absent receiver has not taken yet, so that no
guest waits for it and no memory fills.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, final

import numpy as np

from cvmlab.errors import CvmError
from cvmlab.journal import Records
from cvmlab.operations import BackendInfo, Content, RangesLike, Target
from cvmlab.records import RECORD, Phase
from cvmlab.states import Counter
from cvmlab.table import PageCounts


READ_RECORDS = 1 << 14  # 1 MiB


class Folder(Protocol):
    @property
    def path(self) -> Path: ...


class Counted(Protocol):
    """The part of Pages that is published."""

    @property
    def phase(self) -> Phase: ...
    def counts(self) -> PageCounts: ...
    def counters(self) -> Mapping[Counter, int]: ...


class Watched(Protocol):
    """What Vm and AttachedVm have in common."""

    @property
    def name(self) -> str: ...
    @property
    def run(self) -> Folder: ...
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

    def __init__(self, vm: Watched) -> None:
        self.vm = vm
        self.position = 0  # records before it were dealt with
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

    @property
    def waiting(self) -> int:
        """Records behind ``position``."""
        return os.fstat(self._file).st_size // RECORD.itemsize - self.position

    async def devices(self, wanted: set[int]) -> Mapping[int, str]:
        """Return names of devices; QEMU is asked only for those never seen before."""
        if not wanted <= self._devices.keys():
            try:
                self._devices |= (await self.vm.query()).devices
            except CvmError:  # the VM has ended; numbers will do
                self._devices |= {number: f"#{number}" for number in wanted - set(self._devices)}
        return self._devices
