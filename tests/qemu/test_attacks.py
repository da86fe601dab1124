# SPDX-License-Identifier: GPL-2.0-or-later
"""A short attack on the ordinary QEMU; tests/sanitize has the long one, under sanitizers."""

import asyncio
from pathlib import Path

import pytest

from tests.qemu.bare_machine import BareMachine
from tests.sanitize.hostile import TARGETS, Tally, attack_round, machine
from tests.sanitize.hostile_host import bombard


pytestmark = [pytest.mark.qemu, pytest.mark.fault("Q10")]
CALLS = 50_000
REQUESTS = 200


@pytest.mark.parametrize("coco", TARGETS)
async def test_a_hostile_guest_ends_by_name_or_goes_on_and_the_books_balance(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path, coco: str
) -> None:
    tally = Tally()
    await attack_round(patched_qemu, bare_elf, tmp_path, coco, 1, CALLS, tally, meddled=True)
    assert tally.calls >= CALLS or not tally.ends["went on"], tally
    assert tally.faults


@pytest.mark.parametrize("coco", TARGETS)
async def test_hostile_requests_are_answered(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a word may be the name of a file that QEMU is told to make
    async with BareMachine.start(patched_qemu, machine(coco, bare_elf), tmp_path) as vm:
        vm.is_intact = False
        answers = await asyncio.to_thread(
            bombard, tmp_path / "qmp.sock", 1, tmp_path, lambda sent: sent < REQUESTS
        )
    assert min(answers["value"], answers["error"]) > REQUESTS / 10
