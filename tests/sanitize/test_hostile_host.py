# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile QMP client against a running guest, under ASan and UBSan.

``CVMLAB_REQUESTS`` is the number of requests for each profile; seeds are fixed, so a finding
repeats.
"""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.qemu.bare_machine import EDU_DEVICE, BareMachine
from tests.sanitize.conftest import Tell
from tests.sanitize.hostile import TARGETS, machine
from tests.sanitize.hostile_host import bombard
from tests.sanitize.sanitizers import assert_clean


pytestmark = pytest.mark.sanitize
REQUESTS = int(os.environ.get("CVMLAB_REQUESTS", "5000"))
ROUND = 20_000
PLANTED = 200_000  # requests in which the planted error is found, at the latest


@pytest.fixture(autouse=True)
def files_go_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word may be the name of a file that QEMU is told to make."""
    monkeypatch.chdir(tmp_path)


def standard_error(vm: BareMachine) -> Path:
    return Path(f"/proc/{vm.process.pid}/fd/2").readlink()


async def attack(
    qemu: Path, elf: Path, folder: Path, coco: str, seed: int, requests: int
) -> Counter[str]:
    """Boot a guest and send requests; return the numbers of values and errors."""
    spec = machine(coco, elf, devices=(EDU_DEVICE,))
    try:
        async with BareMachine.start(qemu, spec, folder) as vm:
            log = standard_error(vm)
            vm.is_intact = False  # QEMU's own objects have got properties that it is not made for
            answers = await asyncio.to_thread(
                bombard, folder / "qmp.sock", seed, folder, lambda sent: sent < requests
            )
            assert standard_error(vm) == log, "nothing was reported"
    except AssertionError:
        assert_clean(folder / "qemu.log", f"{coco} seed {seed}")
        raise
    assert_clean(folder / "qemu.log", f"{coco} seed {seed}")
    return answers


@pytest.mark.fault("Q2", "Q10")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("coco", TARGETS)
async def test_no_request_is_an_error_of_qemu(
    sanitized_qemu: Path, bare_elf: Path, tmp_path: Path, tell: Tell, coco: str
) -> None:
    answers: Counter[str] = Counter()
    seed = 0
    while answers.total() < REQUESTS:
        seed += 1
        folder = tmp_path / str(seed)
        folder.mkdir()
        left = min(ROUND, REQUESTS - answers.total())
        answers += await attack(sanitized_qemu, bare_elf, folder, coco, seed, left)
        sys.stdout.write(f"{coco}: {answers.total()} requests\n")  # of a run that takes an hour
        sys.stdout.flush()
    tell(f"{coco}: {dict(answers)}")
    # Both must be frequent, or the attack tests the parser only.
    assert min(answers["value"], answers["error"]) > REQUESTS / 10


@pytest.mark.timeout(900)
async def test_control_the_attack_finds_a_planted_error(
    planted_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"heap-buffer-overflow[\s\S]*planted"):
        await attack(planted_qemu, bare_elf, tmp_path, "generic", 1, PLANTED)
