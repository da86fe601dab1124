# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversions, and what a guest of 1 TiB costs more than one of 1 GiB."""

import asyncio
import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from cvmlab import images
from cvmlab.memory.ranges import GpaRange
from cvmlab.vm.sync import SyncVm
from cvmlab.vm.vm import Vm
from tests.bench.measure import Figure, paired, seconds


MIB, GIB = 1 << 20, 1 << 30
PUNCH_KEEP_SIZE = 3
LARGE = [GpaRange(64 * MIB + i * 4 * MIB, 2 * MIB) for i in range(200)]
SMALL = [GpaRange(64 * MIB + i * 8192, 4096) for i in range(50_000)]
BATCHES = 10
SINGLES = 500
STARTS = 7
REPEATS = 50
HUGE = "1T"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def vm(coco: str, memory: str = "1G", extra: Sequence[str] = ()) -> SyncVm:
    """A VM whose CPUs have not started, so that nothing else uses the machine."""
    files = images.resolve("debian")
    kernel, initrd = files.kernel, files.initrd
    return SyncVm(kernel=kernel, initrd=initrd, paused=True, coco=coco, memory=memory, extra=extra)


def fallocate(fd: int, mode: int, span: GpaRange) -> None:
    if _libc.fallocate(fd, mode, span.start, span.size):
        raise OSError(ctypes.get_errno(), "fallocate")


def raw_in_place(fd: int) -> None:
    """What moving the same storage costs by itself: give it, take it."""
    for span in LARGE:
        fallocate(fd, 0, span)
    for span in LARGE:
        fallocate(fd, PUNCH_KEEP_SIZE, span)


def round_trip(running: SyncVm, content: str | None) -> Callable[[], None]:
    def convert() -> None:
        running.convert(LARGE, "shared", content=content)
        running.convert(LARGE, "private", content=content)

    return convert


def against_fallocate(name: str, profile: str) -> Figure:
    """To shared and back, against allocating and punching the same ranges of a memfd."""
    fd = os.memfd_create("cvmlab-bench")
    os.ftruncate(fd, GIB)
    try:
        with vm(profile) as running:
            convert = round_trip(running, None)
            convert()
            raw_in_place(fd)
            ratios = [seconds(convert) / seconds(lambda: raw_in_place(fd)) for _ in range(BATCHES)]
    finally:
        os.close(fd)
    detail = f"{len(LARGE)} ranges there and back, {min(ratios):.2f} to {max(ratios):.2f}"
    return Figure(name, statistics.median(ratios), detail)


def batches() -> Figure:
    with vm("generic") as running:
        running.convert(SMALL, "shared")
        times = [
            seconds(lambda target=target: running.convert(SMALL, target))  # type: ignore[misc]
            for _ in range(BATCHES // 2)
            for target in ("private", "shared")
        ]
    rate = len(SMALL) / statistics.median(times)
    return Figure(
        "convert-ranges", rate, f"{len(SMALL)} ranges of 4 KiB a call, {len(times)} calls"
    )


async def one_by_one() -> list[float]:
    span, times = GpaRange(64 * MIB, 4096), []
    files = images.resolve("debian")
    async with Vm(kernel=files.kernel, initrd=files.initrd, paused=True, coco="generic") as running:
        for i in range(SINGLES):
            start = time.perf_counter()
            await running.convert(span, "private" if i % 2 else "shared")
            times.append(time.perf_counter() - start)
    return times


def singles() -> Figure:
    times = asyncio.run(one_by_one())
    low, high = (q * 1e6 for q in statistics.quantiles(times, n=10)[::8])
    detail = f"{SINGLES} calls; 10 % to 90 %: {low:.0f} to {high:.0f} us"
    return Figure("convert-one", statistics.median(times) * 1e6, detail)


def start_s(coco: str, *extra: str) -> float:
    start = time.perf_counter()
    with vm(coco, HUGE, extra):
        return time.perf_counter() - start


def table_bytes(running: SyncVm) -> int:
    return sum(len(states) for _, states in running.pages.extents())


def huge() -> Iterator[Figure]:
    # Against the same guest without the backend: QEMU itself needs longer for 1 TiB than for
    # 1 GiB, for its own dirty bitmaps.
    plain = ("-object", f"memory-backend-memfd,id=ram0,size={HUGE},reserve=off",
             "-machine", "memory-backend=ram0")  # fmt: skip
    yield paired("huge-start", lambda: start_s("generic"), lambda: start_s("off", *plain), STARTS)
    with vm("generic", "1G") as small, vm("generic", HUGE) as large:
        for one in (small, large):
            one.convert(LARGE, "shared")
        yield paired(
            "huge-query", lambda: seconds(large.query), lambda: seconds(small.query), REPEATS
        )
        yield paired("huge-map", lambda: map_s(large), lambda: map_s(small), REPEATS)
        sizes = table_bytes(large), table_bytes(small)
    detail = f"{sizes[0] / 1024:.1f} / {sizes[1] / 1024:.1f} KiB"
    yield Figure("huge-table", sizes[0] / sizes[1], detail)


def map_s(running: SyncVm) -> float:
    return seconds(lambda: running.pages.heat(1000))


def figures() -> Iterator[Figure]:
    yield against_fallocate("convert-in-place", "generic")
    yield against_fallocate("convert-split", "sw-protected")
    yield batches()
    yield singles()
    yield from huge()
