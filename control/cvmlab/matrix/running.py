# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of a matrix from what is missing to its verdict, with how far it is."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cvmlab.base.progress import Part, Task
from cvmlab.base.stop_signals import stop_signals
from cvmlab.machine.spec import Firmware
from cvmlab.matrix import cell_run
from cvmlab.matrix.capacity import Capacity
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.folder import Folder, Record
from cvmlab.matrix.scheduler import run_all
from cvmlab.matrix.verdict import CellResult, CellVerdict, MatrixResult, combine, not_run


_CELL_S = 10.0  # until the first cells have said how long they take


def missing(folder: Folder) -> tuple[Cell, ...]:
    """Return the cells that have to be run."""
    known, record = folder.known(), folder.record
    return tuple(
        cell
        for cell in record.cells
        if cell.number in record.mine and cell.number not in known and cell.ignored is None
    )


def total(record: Record, known: dict[int, CellResult], numbers: Sequence[int]) -> MatrixResult:
    """Return the result of those *numbers*: known, ignored, or missing."""
    found = []
    for cell in record.cells:
        if cell.number in known and cell.ignored is None:
            found.append(known[cell.number])
        elif cell.number in numbers:
            verdict = CellVerdict.MISSING if cell.ignored is None else CellVerdict.IGNORED
            found.append(not_run(cell, verdict))
    return combine(record.name, record.digest, found)


async def prepare(cells: Sequence[Cell], folder: Folder) -> None:
    """Fetch each guest once, and not by several boots at a time; raise ConfigError."""
    guests = {cell.axis.guest: cell for cell in reversed(cells)}
    for cell in reversed(guests.values()):
        await cell_run.check(cell, folder.of(cell))


async def run_here(cells: Sequence[Cell], folder: Folder, room: Capacity, pace: "Pace") -> None:
    """Run *cells* on this machine, and keep each verdict as it comes."""

    async def one(cell: Cell) -> CellResult:
        return await cell_run.run(cell, folder.of(cell))

    await run_all(cells, one, room, partial(_ended, folder, pace))


def _ended(folder: Folder, pace: "Pace", result: CellResult) -> None:
    folder.keep(result)
    pace.ended(result)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> bool:
    """Run *work*; False if a stop signal ended it, after everything was stopped."""
    task = asyncio.ensure_future(work)
    with _cancelled_by_signals(task):
        try:
            await task
        except asyncio.CancelledError:
            return False
    return True


@contextmanager
def _cancelled_by_signals(task: asyncio.Task[None]) -> Iterator[None]:
    """Treat the other stop signals as asyncio treats Ctrl-C."""
    loop = asyncio.get_running_loop()
    others = [number for number in stop_signals() if number is not signal.SIGINT]
    for number in others:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in others:
            loop.remove_signal_handler(number)


@dataclass(slots=True)
class Pace:
    """How far a run is: a cell weighs what its firmware takes."""

    weights: dict[int, int]
    task: Task | None = None
    done: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "Pace":
        return cls({cell.number: _weight(cell) for cell in cells})

    def phase(self, room: Capacity) -> Part:
        """Return what to expect, for the display."""
        guests = max(1, min(room.cores, len(self.weights), room.jobs or room.cores))
        return Part("cells", _CELL_S * max(sum(self.weights.values()), 1) / guests)

    def ended(self, result: CellResult) -> None:
        """Move on."""
        self.done.add(result.number)
        share = sum(self.weights[number] for number in self.done) / sum(self.weights.values())
        if self.task is not None:
            said = f"{len(self.done)} of {len(self.weights)}, {result.verdict} {result.id}"
            self.task.advance(share, said)


def _weight(cell: Cell) -> int:
    return 1 if cell.axis.firmware == Firmware.SEABIOS else 2
