# SPDX-License-Identifier: GPL-2.0-or-later
"""What snapshots, forks and warm boots cost: a stock TDX guest of 1 GiB that uses about 250 MiB."""

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from cvmlab.snapshots.store import listed, warm_dir
from cvmlab.vm.vm import Vm
from tests.bench.measure import Figure, seconds
from tests.bench.travel import BOOT_S, busy_guest


ROUNDS = 7
FORKS = 10
MATRIX_S = 1800
EXAMPLE = Path(__file__).parents[2] / "examples" / "matrix.toml"
WARM = ("boot", "debian", "--coco", "tdx", "--exec", "true", "--warm", "--progress", "none")


def figures() -> Iterator[Figure]:
    """Yield the figures of snapshots, forks and warm boots."""
    with TemporaryDirectory() as folder:
        yield from asyncio.run(_figures(Path(folder)))
    yield _warm()
    yield _warm_matrix()


async def _figures(folder: Path) -> list[Figure]:
    async with busy_guest(folder / "run") as vm:
        await vm.wait_for("rests", timeout_s=BOOT_S)
        return [figure async for figure in _copies(vm, folder)]


async def _copies(vm: Vm, folder: Path) -> AsyncIterator[Figure]:
    used = f"{sum(vm.memory_files.storage_bytes()) >> 20} MiB in use, median of {ROUNDS}"
    saved = [await vm.save(folder / f"saved{number}") for number in range(ROUNDS)]
    still = statistics.median(one.standstill_s for one in saved)
    yield Figure("snapshot-standstill", still * 1e3, used)
    await vm.pause()
    yield await _restore(vm, saved[-1].path)
    await vm.cont()
    stills, wholes = [], []
    for _ in range(3):
        began = time.perf_counter()
        copies = await vm.fork(FORKS)
        assert copies[0].origin is not None
        stills.append(copies[0].origin.manifest.standstill_s)
        async with AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(copy) for copy in copies))
            wholes.append(time.perf_counter() - began)
    yield Figure("fork-standstill", statistics.median(stills) * 1e3, "median of 3")
    yield Figure("fork-ten", statistics.median(wholes), "until all run, median of 3")


async def _restore(vm: Vm, place: str) -> Figure:
    """Compare a restore, until the guest runs, with the start of the same QEMU, its CPUs stopped."""
    extra = []
    for _ in range(ROUNDS):
        started = await _entered(
            Vm(vm.spec, setting=replace(vm.setting, run_dir=None), paused=True)
        )
        restored = await _entered(Vm.restore(place))
        extra.append(restored - started)
    return Figure("restore-extra", statistics.median(extra) * 1e3, f"median of {ROUNDS}")


async def _entered(vm: Vm) -> float:
    began = time.perf_counter()
    async with vm:
        return time.perf_counter() - began


def _warm() -> Figure:
    """Time the whole command, when there is a kept guest."""
    command = [sys.executable, "-m", "cvmlab", *WARM]

    def boot() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BOOT_S, check=True)
        return done.stdout

    boot()
    assert "restored  at hello" in boot()
    times = [seconds(boot) for _ in range(ROUNDS)]
    return Figure(
        "warm-boot", statistics.median(times), f"median of {ROUNDS}, best {min(times):.2f} s"
    )


def _warm_matrix() -> Figure:
    """Time the example matrix, whose guests nobody has kept yet, and the same again."""
    before = set(listed(warm_dir()))
    try:
        with TemporaryDirectory() as folder:
            document = Path(folder, "matrix.toml")
            # A command line that no boot had before.
            own = f'warm = true\nappend = "cvmlab.bench={uuid4()}"\n'
            document.write_text(EXAMPLE.read_text().replace("[defaults]\n", f"[defaults]\n{own}"))
            first, second = (seconds(partial(_run_matrix, document)) for _ in range(2))
    finally:
        for place in set(listed(warm_dir())) - before:
            shutil.rmtree(place)
    return Figure("matrix-warm", first / second, f"{first:.0f} s, then {second:.0f} s")


def _run_matrix(document: Path) -> None:
    command = [sys.executable, "-m", "cvmlab", "matrix", str(document), "--progress", "none"]
    subprocess.run(command, check=True, timeout=MATRIX_S, stdout=subprocess.DEVNULL)
