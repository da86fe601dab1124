# SPDX-License-Identifier: GPL-2.0-or-later
"""What the live view shows: a VM of another terminal, or (in tests) a made-up one."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, final

from cvmlab.base.errors import CvmError
from cvmlab.base.safe_text import safe
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.live_map import Sample
from cvmlab.memory.ranges import GpaRange, Slot, format_size
from cvmlab.memory.records import NO_DEVICE, Kind, Phase, describe, is_event
from cvmlab.memory.table import Extent, PageCounts
from cvmlab.vm.attached import AttachedVm
from cvmlab.vm.operations import Target


_FAULTS = (Kind.HOST_FAULT.word, Kind.GUEST_FAULT.word, Kind.VIOLATION.word)


class ViewSource(Protocol):
    """A VM as the view needs it."""

    @property
    def title(self) -> str:
        """Name, profile, memory."""
        ...

    @property
    def slots(self) -> Sequence[Slot]: ...
    @property
    def phase(self) -> Phase: ...
    @property
    def alive(self) -> bool: ...

    def counts(self) -> PageCounts: ...
    def sample(self) -> Sample: ...
    def extents(self) -> Iterable[Extent]: ...

    async def new_faults(self) -> list[str]:
        """Return the faults since the last call, a line each."""
        ...

    async def paused(self) -> bool: ...
    async def set_paused(self, *, paused: bool) -> None: ...
    async def convert(self, ranges: Sequence[GpaRange], to: Target) -> int: ...


@final
class LiveSource:
    """A running VM.  Pages and counters come from shared memory: QEMU is not asked for them."""

    def __init__(self, vm: AttachedVm) -> None:
        self._vm = vm
        self._position = 0
        self._devices: Mapping[int, str] = {}

    @property
    def title(self) -> str:
        # As it was asked for: the slots leave out what a PC keeps for itself below 1 MiB.
        info = self._vm.run.info
        return f"{info.name}  {info.coco}  {format_size(info.memory_bytes)}"

    @property
    def slots(self) -> Sequence[Slot]:
        return self._vm.pages.slots

    @property
    def phase(self) -> Phase:
        return self._vm.pages.phase

    @property
    def alive(self) -> bool:
        return self._vm.run.running

    def counts(self) -> PageCounts:
        return self._vm.pages.counts()

    def sample(self) -> Sample:
        return Sample(time.monotonic(), self._vm.pages.counters())

    def extents(self) -> Iterable[Extent]:
        return self._vm.pages.extents()

    async def new_faults(self) -> list[str]:
        """Return the faults since the last call, a line each; of very many, the last ones."""
        try:
            records = JournalFile(self._vm.run.path / "events.bin").records
        except CvmError:  # the VM has ended and its run folder is gone
            return []
        fresh = records[self._position :]
        self._position = len(records)
        faults = fresh[is_event(fresh, *_FAULTS)][-_MOST_LINES:]
        if any(int(one["device"]) not in self._devices for one in faults):
            await self._learn_names()
        return [safe(describe(one, self._devices).strip()) for one in faults]

    async def _learn_names(self) -> None:
        try:
            self._devices = {NO_DEVICE: "", **(await self._vm.query()).devices}
        except CvmError:  # it is ending; numbers will do
            return

    async def paused(self) -> bool:
        status = await self._vm.command("query-status")
        return not status["running"]

    async def set_paused(self, *, paused: bool) -> None:
        await (self._vm.pause() if paused else self._vm.cont())

    async def convert(self, ranges: Sequence[GpaRange], to: Target) -> int:
        return await self._vm.convert(ranges, to)


_MOST_LINES = 200
