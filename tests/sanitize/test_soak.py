# SPDX-License-Identifier: GPL-2.0-or-later
"""All attackers at once, for ``CVMLAB_SOAK_MINUTES``: memory, threads and descriptors stay flat.

On the ordinary QEMU: what the sanitizers keep of freed memory would hide what QEMU keeps.  The second
quarter is compared with the last: in the first one, objects and devices that QMP may make are made.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.qemu.build import qemu_binary
from tests.qemu.bare import BareGuestError
from tests.qemu.bare_machine import EDU_DEVICE, BareMachine
from tests.sanitize.conftest import Tell
from tests.sanitize.hostile import LEFTOVERS, TARGETS, Siege, Tally, machine
from tests.sanitize.hostile_host import bombard
from tests.sanitize.sanitizers import assert_clean
from tests.sanitize.services import hostile_service


pytestmark = pytest.mark.sanitize
MINUTES = float(os.environ.get("CVMLAB_SOAK_MINUTES", "30"))
GROWTH = 1.15  # of memory: more than translated code that comes and goes
THREADS_MORE = 4
FDS_MORE = 16
CALLS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Size:
    """What a process has."""

    rss_kib: int
    threads: int
    fds: int

    @classmethod
    def of(cls, pid: int) -> "Size":
        """Read it from /proc."""
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        fds = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return cls(int(status["RssAnon"].split()[0]), int(status["Threads"]), fds)

    @classmethod
    def usual(cls, sizes: Sequence["Size"]) -> "Size":
        """Return the medians: what QMP makes and drops, such as a checkpoint, comes and goes."""
        return cls(*(int(median(getattr(size, name) for size in sizes)) for name in cls.__slots__))


async def _besiege(vm: BareMachine, tally: Tally, end: float) -> None:
    """Attack until *end*; a guest that ended is booted again."""
    seed = 0
    while time.monotonic() < end:
        seed += 1
        ended = await Siege(vm, seed, tally, meddled=True).run(CALLS_AT_ONCE)
        tally.ends[ended.split(":")[0] or "went on"] += 1
        vm.journal.clear()
        if ended:
            await _boot_again(vm)


async def _boot_again(vm: BareMachine) -> None:
    await vm.qmp.execute("system_reset")
    with suppress(CommandRefused):
        await vm.qmp.execute("cont")
    for _ in range(LEFTOVERS):  # of the guest that ended, before the greeting of this one
        with suppress(BareGuestError):
            await asyncio.to_thread(vm.guest.wait_hello)
            return


async def _bother(folder: Path, answers: Counter[str], end: float) -> None:
    attack = partial(bombard, lets_run=True)
    answers += await asyncio.to_thread(
        attack, folder / "qmp.sock", 1, folder, lambda _sent: time.monotonic() < end
    )


async def _measure(pid: int, sizes: list[Size], end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(MINUTES / 2)  # a sample each so often, in seconds: 120 in all
        sizes.append(Size.of(pid))


@pytest.mark.timeout(MINUTES * 60 + 900)
@pytest.mark.parametrize("coco", ["sev-snp"])
async def test_all_attackers_at_once_leave_qemu_as_large_as_it_was(
    bare_elf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell, coco: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a word may be the name of a file that QEMU is told to make
    tally, answers, sizes = Tally(), Counter[str](), list[Size]()
    end = time.monotonic() + MINUTES * 60
    spec = machine(coco, bare_elf, devices=(EDU_DEVICE,), quote_socket=tmp_path / "s")
    assert TARGETS[coco].has_service
    async with (
        hostile_service(tmp_path / "s", 1, tally.asked),
        BareMachine.start(qemu_binary(), spec, tmp_path) as vm,
    ):
        vm.is_intact = False
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_besiege(vm, tally, end))
            tasks.create_task(_bother(tmp_path, answers, end))
            tasks.create_task(_measure(vm.process.pid, sizes, end))
    assert_clean(tmp_path / "qemu.log", coco)
    quarter = len(sizes) // 4
    first, last = Size.usual(sizes[quarter : 2 * quarter]), Size.usual(sizes[-quarter:])
    tell(f"{MINUTES} minutes, {coco}: {tally}; {dict(answers)}; from {first} to {last}")
    assert last.rss_kib < first.rss_kib * GROWTH, sizes
    assert last.threads <= first.threads + THREADS_MORE, sizes
    assert last.fds <= first.fds + FDS_MORE, sizes
