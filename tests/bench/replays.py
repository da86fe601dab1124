# SPDX-License-Identifier: GPL-2.0-or-later
"""What a recording costs, and its replay: a stock TDX guest that counts its instructions anyway."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

from cvmlab.images.boot_files import resolve
from cvmlab.vm.vm import Vm
from tests.bench.measure import Figure, ratio


ROUNDS = 3
BOOT_S = 200.0
COUNTED, RECORDED, REPLAYED = "counted", "recorded", "replayed"


def figures(rounds: int | None = None) -> Iterator[Figure]:
    """Yield the ratios of CPU time, user and system, of QEMU."""
    with TemporaryDirectory() as folder:
        taken = [_round(Path(folder)) for _ in range(rounds or ROUNDS)]
    for name in (RECORDED, REPLAYED):
        ours, others = [one[name] for one in taken], [one[COUNTED] for one in taken]
        yield ratio(f"replay-{name}", ours, others, "s")


def _round(folder: Path) -> Mapping[str, float]:
    guest = resolve("debian")
    options = {
        "kernel": guest.kernel,
        "initrd": guest.initrd,
        "append": guest.append,
        "coco": "tdx",
    }
    record = folder / "recording"
    return {
        COUNTED: _cpu_s(Vm(**options, extra=("-icount", "shift=3"))),  # type: ignore[arg-type]
        RECORDED: _cpu_s(Vm(**options, record=record)),  # type: ignore[arg-type]
        REPLAYED: _cpu_s(Vm.replay(record)),
    }


def _cpu_s(vm: Vm) -> float:
    async def run() -> None:
        async with vm:
            await vm.wait_exit(timeout_s=BOOT_S)

    before = getrusage(RUSAGE_CHILDREN)
    asyncio.run(run())
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
