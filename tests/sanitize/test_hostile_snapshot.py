# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot whose digests are right and whose content is not, given to a QEMU under ASan and UBSan.

It is refused in one sentence, or the guest goes on with what it was given.  ``CVMLAB_SNAPSHOTS`` is
the number of changed snapshots for each profile; seeds are fixed, so a finding repeats.
"""

import asyncio
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab import Vm
from cvmlab.base.errors import CvmError
from cvmlab.qemu.build import rom_dirs
from cvmlab.snapshots.manifest import RING, STACKS, STATE, TABLE
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.vm.launch import Setting
from tests.qemu.conftest import CHURN_AREA, CHURN_PAGES
from tests.sanitize.conftest import Tell
from tests.sanitize.hostile import TARGETS
from tests.sanitize.sanitizers import assert_clean


pytestmark = [pytest.mark.sanitize, pytest.mark.usefixtures("state_home")]
SNAPSHOTS = int(os.environ.get("CVMLAB_SNAPSHOTS", "12"))
START_S = 60.0  # of a QEMU under sanitizers
RUN_S = 0.5
RAN = "ran"
# What QEMU reads: most of all the state, which has more to say.
FILES = (STATE, STATE, STATE, TABLE, RING, STACKS)


def flipped(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def extreme(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    value = chance.choice([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7])
    data[at : at + 8] = value[: len(data) - at]


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def moved(data: bytearray, chance: random.Random) -> None:
    size = chance.randrange(1, 65)
    one, other = (chance.randrange(max(len(data) - size, 1)) for _ in range(2))
    data[one : one + size] = data[other : other + size]


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flipped, extreme, cut, moved)


def damaged(saved: Path, folder: Path, seed: int) -> str:
    """Copy the snapshot *saved* to *folder*, with one of its files changed; say what was done."""
    chance = random.Random(seed)
    shutil.copytree(saved, folder)
    name, change = chance.choice(FILES), chance.choice(CHANGES)
    file = folder / name
    data = bytearray(file.read_bytes())
    # An image of memory has the size of its file: what is cut off it is zero.
    size = len(data)
    change(data, chance)
    file.write_bytes(data if name == STATE else data.ljust(size, b"\0"))
    return f"{change.__name__} {name}"


async def restored(folder: Path, run: Path, qemu: Path) -> str:
    """Restore *folder* as if its digests were right; return why it was refused, or RAN."""
    origin = SnapshotFolder.open(folder)
    origin.is_to_be_verified = False
    setting = Setting(name="hostile", qemu=qemu, run_dir=run, start_timeout_s=START_S)
    try:
        async with Vm.of_snapshot(origin, setting, paused=True) as vm:
            await vm.cont()
            await asyncio.sleep(RUN_S)
            await vm.query()
    except CvmError as error:
        return error.message
    return RAN


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("coco", TARGETS)
async def test_no_snapshot_is_an_error_of_qemu(
    sanitized_qemu: Path, bare_elf: Path, tmp_path: Path, tell: Tell, coco: str
) -> None:
    vm = Vm(
        qemu=sanitized_qemu, kernel=bare_elf, coco=coco, memory="64M", rom_dirs=rom_dirs(),
        append=f"-- churn {CHURN_AREA:x} {CHURN_PAGES:x};--", start_timeout_s=START_S,
    )  # fmt: skip
    saved = tmp_path / "saved"
    async with vm:
        await vm.save(saved)
    assert await restored(saved, tmp_path / "good", sanitized_qemu) == RAN
    came: Counter[bool] = Counter()
    for seed in range(SNAPSHOTS):
        folder, run = tmp_path / f"snapshot{seed}", tmp_path / f"run{seed}"
        done = damaged(saved, folder, seed)
        answer = await restored(folder, run, sanitized_qemu)
        assert "\n" not in answer
        came[answer == RAN] += 1
        assert_clean(run / "qemu.log", f"{coco} seed {seed}: {done}")
        shutil.rmtree(folder)
    tell(f"{coco}: {came[False]} snapshots refused, {came[True]} ran")
    assert came[False]
