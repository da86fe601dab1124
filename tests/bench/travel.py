# SPDX-License-Identifier: GPL-2.0-or-later
"""What checkpoints cost: a stock TDX guest of 1 GiB that goes back after a few pages were written."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from cvmlab.images.boot_files import resolve
from cvmlab.vm.vm import Vm
from tests.bench.measure import Figure


ROUNDS = 50
BOOT_S = 120
T = TypeVar("T")
# 100 MiB of files, and then a program that writes to a few pages, again and again.
COMMAND = """dd if=/dev/zero of=/tmp/a bs=1M count=100 2>/dev/null; echo rests
while :; do dd if=/dev/zero of=/tmp/b bs=4k count=16 conv=notrunc 2>/dev/null; sleep 0.01; done"""


def figures() -> Iterator[Figure]:
    """Yield the figures of checkpoints and rewinds."""
    yield from asyncio.run(_figures())


def busy_guest(run_dir: Path) -> Vm:
    """Return a VM whose guest says "rests" when it has filled its files."""
    guest = resolve("debian", exec_command=COMMAND)
    return Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=guest.append, coco="tdx", memory="1G",
        run_dir=run_dir,
    )  # fmt: skip


async def _figures() -> list[Figure]:
    with TemporaryDirectory() as folder:
        async with busy_guest(Path(folder) / "run") as vm:
            await vm.wait_for("rests", timeout_s=BOOT_S)
            return [figure async for figure in _travel(vm)]


async def _travel(vm: Vm) -> AsyncIterator[Figure]:
    first_s, kept = await _timed(vm.checkpoint)
    used = vm.memory_files.storage_bytes()
    yield Figure("checkpoint-first", first_s * 1e3, f"{sum(used) >> 20} MiB in use")
    seconds, pages = [], []
    for _ in range(ROUNDS):
        await asyncio.sleep(0.01)
        took_s, went = await _timed(lambda: vm.rewind(kept))
        seconds.append(took_s)
        pages.append(went.pages)
    detail = f"{statistics.median(pages):.0f} pages (median of {ROUNDS}), best {min(seconds) * 1e3:.1f} ms"
    yield Figure("rewind", statistics.median(seconds) * 1e3, detail)
    await vm.drop_checkpoint(kept)


async def _timed(work: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    start = time.perf_counter()
    done = await work()
    return time.perf_counter() - start, done
