# SPDX-License-Identifier: GPL-2.0-or-later
"""Run cells beside each other, as many as the machine can bear."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from cvmlab.matrix.capacity import Capacity
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.verdict import CellResult


RunCell = Callable[[Cell], Awaitable[CellResult]]
OnEnd = Callable[[CellResult], None]


async def run_all(cells: Sequence[Cell], run: RunCell, room: Capacity, on_end: OnEnd) -> None:
    """Run every cell; *on_end* is told each verdict as it comes.

    The first cell of the list that fits beside those running is next.  If this is cancelled, or a
    cell raises, the others are cancelled and waited for.
    """
    waiting = list(cells)
    running: dict[asyncio.Task[None], Cell] = {}

    async def one(cell: Cell) -> None:
        on_end(await run(cell))

    try:
        async with asyncio.TaskGroup() as group:
            while waiting:
                busy = list(running.values())
                cell = next((cell for cell in waiting if _fits(cell, busy, room)), None)
                if cell is not None:
                    waiting.remove(cell)
                    running[group.create_task(one(cell))] = cell
                    continue
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    del running[task]
    except ExceptionGroup as errors:
        # What went wrong first; the others were only cancelled, or suffered from the same.
        raise errors.exceptions[0] from errors


def _fits(cell: Cell, running: Sequence[Cell], room: Capacity) -> bool:
    used = Capacity(
        cores=sum(item.axis.cpus for item in running),
        memory_bytes=sum(item.memory_bytes for item in running),
        jobs=len(running),
    )
    return room.has_room(used, cell.axis.cpus, cell.memory_bytes)
