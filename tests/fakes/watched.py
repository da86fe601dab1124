# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM for a publisher: a journal that somebody writes, and numbers that somebody sets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvmlab.base.errors import ConfigError, PluginError
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.records import Phase
from cvmlab.memory.table import PageCounts
from cvmlab.vm.operations import BackendInfo, Content, RangesLike, Target, read_ranges
from tests.fakes.journals import Records


@dataclass
class FakeCounts:
    phase: Phase = Phase.KERNEL
    pages: PageCounts = field(default_factory=lambda: PageCounts(pending=100, private=28))
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEASURES.slots, 7))

    def counts(self) -> PageCounts:
        return self.pages

    def counters(self) -> dict[str, int]:
        return self.counted


@dataclass
class FakeRun:
    path: Path


class FakeWatched:
    """``calls`` is what it was asked to do."""

    def __init__(self, folder: Path, name: str = "lab") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.run = FakeRun(folder)
        self.pages = FakeCounts()
        self.calls: list[tuple[Any, ...]] = []
        (folder / "events.bin").touch()

    def write(self, records: Records) -> None:
        """Add to the journal."""
        with (self.run.path / "events.bin").open("ab") as file:
            file.write(records.tobytes())

    async def query(self) -> BackendInfo:
        raise PluginError("the VM has ended")

    async def convert(
        self, ranges: RangesLike, to: Target | str, *, content: Content | str | None = None
    ) -> int:
        if to not in set(Target):
            raise ConfigError(f"there is no target {to!r}")
        found = read_ranges(ranges)
        self.calls.append(("convert", *map(str, found), str(to)))
        return sum(one.size for one in found) // 4096

    async def pause(self) -> None:
        self.calls.append(("pause",))

    async def cont(self) -> None:
        self.calls.append(("cont",))

    async def stop(self) -> None:
        self.calls.append(("stop",))
