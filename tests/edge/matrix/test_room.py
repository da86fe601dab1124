# SPDX-License-Identifier: GPL-2.0-or-later
"""How many guests run beside each other, and what the machine is said to bear."""

import asyncio
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.matrix.capacity import Capacity, capacity
from cvmlab.matrix.cells import Axis, Cell
from cvmlab.matrix.scheduler import run_all
from cvmlab.matrix.verdict import CellResult, CellVerdict


GIB = 1 << 30


def cell(number: int, *, cpus: int = 1, memory_bytes: int = GIB) -> Cell:
    axis = Axis(
        guest=f"g{number}", coco="off", firmware="seabios", on_host_access="deny",
        cpus=cpus, memory="1G",
    )  # fmt: skip
    return Cell(number=number, axis=axis, words=(), timeout_s=None, memory_bytes=memory_bytes)


class Guests:
    """Cells that end in the order they are told to; ``seen`` is who ran beside whom."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Event] = {}
        self.seen: list[set[int]] = []
        self.cancelled: list[int] = []
        self.ended: list[int] = []

    async def run(self, cell: Cell) -> CellResult:
        gate = self.running[cell.number] = asyncio.Event()
        self.seen.append(set(self.running))
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(cell.number)
            raise
        finally:
            del self.running[cell.number]
        return CellResult(number=cell.number, id=cell.id, verdict=CellVerdict.PASSED, message="")

    def took(self, result: CellResult) -> None:
        self.ended.append(result.number)

    async def let_all_end(self) -> None:
        """End the oldest that runs, again and again, once nothing more starts by itself."""
        while self.running:
            before = -1
            while before != len(self.seen):
                before = len(self.seen)
                for _ in range(5):
                    await asyncio.sleep(0)
            next(iter(self.running.values())).set()
            for _ in range(5):
                await asyncio.sleep(0)


async def ran(cells: list[Cell], room: Capacity) -> Guests:
    guests = Guests()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(run_all(cells, guests.run, room, guests.took))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await guests.let_all_end()
    assert sorted(guests.ended) == [cell.number for cell in cells]
    return guests


async def test_guests_fill_the_processors() -> None:
    guests = await ran([cell(1), cell(2, cpus=2), cell(3)], Capacity(2, 100 * GIB))

    assert guests.seen == [{1}, {1, 3}, {2}]


async def test_guests_fit_into_memory() -> None:
    cells = [cell(1, memory_bytes=3 * GIB), cell(2, memory_bytes=2 * GIB), cell(3)]

    guests = await ran(cells, Capacity(8, 4 * GIB))

    assert guests.seen == [{1}, {1, 3}, {2, 3}]


async def test_a_limit_of_guests_is_kept() -> None:
    guests = await ran([cell(number) for number in (1, 2, 3)], Capacity(8, 100 * GIB, jobs=1))

    assert guests.seen == [{1}, {2}, {3}]


async def test_a_guest_too_large_for_the_machine_is_tried_alone() -> None:
    cells = [cell(1), cell(2, cpus=64, memory_bytes=900 * GIB)]

    guests = await ran(cells, Capacity(2, 4 * GIB))

    assert guests.seen == [{1}, {2}]


async def test_cancelling_waits_for_every_guest() -> None:
    guests = Guests()
    task = asyncio.ensure_future(
        run_all([cell(1), cell(2)], guests.run, Capacity(2, 8 * GIB), guests.took)
    )
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(guests.running) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (sorted(guests.cancelled), guests.running) == ([1, 2], {})


async def test_an_error_of_one_guest_ends_the_others_and_is_what_is_said() -> None:
    guests = Guests()

    async def run(cell: Cell) -> CellResult:
        if cell.number == 1:
            raise ConfigError("the disk is full")
        return await guests.run(cell)

    with pytest.raises(ConfigError, match="the disk is full"):
        await run_all([cell(1), cell(2)], run, Capacity(2, 8 * GIB), guests.took)

    assert guests.running == {}


def test_a_containers_limits_count(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000000 kB\nMemAvailable:    8388608 kB\n")
    free = capacity(meminfo=meminfo, cgroup=tmp_path)

    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    limited = capacity(meminfo=meminfo, cgroup=tmp_path)

    assert free.memory_bytes == 8 * GIB
    assert (limited.cores, limited.memory_bytes) == (1, 3 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity(meminfo=meminfo, cgroup=tmp_path).memory_bytes == 8 * GIB


def test_asking_for_more_guests_than_processors_is_heard(tmp_path: Path) -> None:
    assert capacity(64).cores >= 64
