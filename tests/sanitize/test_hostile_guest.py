# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile guest under ASan and UBSan: whatever it calls, QEMU reports no error of its own.

``CVMLAB_ATTACKS`` is the number of calls for each profile; seeds are fixed, so a finding repeats.
"""

import os
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cvmlab.memory.records import SHARED
from tests.qemu import snp
from tests.qemu.bare_machine import BareMachine
from tests.sanitize.conftest import Tell
from tests.sanitize.hostile import TARGETS, Siege, Tally, attack_round, machine
from tests.sanitize.sanitizers import assert_clean, findings


pytestmark = pytest.mark.sanitize
CALLS = int(os.environ.get("CVMLAB_ATTACKS", "200000"))
ROUND = 500_000
PLANTED = 5_000_000  # calls in which the planted error is found, at the latest
LEAKING = 10_000
ROUNDS_MAX = 60  # for each ROUND: a guest may end itself
GARBLED = ("phase", "dropped", "pages", "counters", "generation", "flags")


@pytest.mark.fault("Q10")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("coco", TARGETS)
async def test_no_call_of_a_guest_is_an_error_of_qemu(
    sanitized_qemu: Path, bare_elf: Path, tmp_path: Path, tell: Tell, coco: str
) -> None:
    tally = Tally()
    rounds = 0
    while tally.calls < CALLS:
        rounds += 1
        folder = tmp_path / str(rounds)
        folder.mkdir()
        left = min(ROUND, CALLS - tally.calls)
        await attack_round(
            sanitized_qemu, bare_elf, folder, coco, rounds, left, tally, meddled=True
        )
        assert rounds < ROUNDS_MAX * (1 + CALLS // ROUND), tally
    tell(f"{coco}: {tally}")
    assert tally.conversions
    assert tally.faults
    if TARGETS[coco].has_service:
        assert len(tally.asked) > 1


@pytest.mark.fault("Q12")
@pytest.mark.parametrize("code", [snp.MMIO_READ, snp.MMIO_WRITE])
@pytest.mark.parametrize("away", [-1, 0, 1])
async def test_an_mmio_exit_whose_buffer_overlaps_its_target(
    sanitized_qemu: Path, bare_elf: Path, tmp_path: Path, code: int, away: int
) -> None:
    data = bytes(range(1, 33))
    async with BareMachine.start(sanitized_qemu, machine("sev-snp", bare_elf), tmp_path) as vm:
        ghcb = snp.Ghcb(vm.guest)
        buffer = ghcb.fill(data, snp.BUFFER + 64)
        ghcb.exit(code, buffer + away, len(data), scratch=buffer)
    assert_clean(tmp_path / "qemu.log", "sev-snp")


@pytest.mark.fault("Q9", "Q10")
@pytest.mark.parametrize("coco", TARGETS)
async def test_garbage_in_the_shared_files_of_a_guest_that_attacks(
    sanitized_qemu: Path, bare_elf: Path, tmp_path: Path, coco: str
) -> None:
    generator = Random(7)
    fields: Any = SHARED.fields
    async with BareMachine.start(sanitized_qemu, machine(coco, bare_elf), tmp_path) as vm:
        vm.is_intact = False
        for seed in range(1, 4):
            await Siege(vm, seed, Tally(), meddled=True).run(10_000)
            for name in GARBLED:
                kind, offset = fields[name][:2]
                value = generator.choice([2**64 - 1, 1 << 63, 77, 0])
                garbage = struct.pack("<Q", value) * max(kind.itemsize // 8, 1)
                os.pwrite(vm.files.fds.ring, garbage[: kind.itemsize], offset)
            os.pwrite(vm.files.fds.table, generator.randbytes(512), 0x2000)
            await vm.qmp.execute("system_reset")
            await vm.qmp.execute("cont")
            vm.guest.wait_hello()
    assert_clean(tmp_path / "qemu.log", coco)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("coco", ["tdx", "sw-protected"])
async def test_control_the_attack_finds_a_planted_error(
    planted_qemu: Path, bare_elf: Path, tmp_path: Path, tell: Tell, coco: str
) -> None:
    tally = Tally()
    with pytest.raises(AssertionError, match=r"heap-buffer-overflow[\s\S]*planted"):
        await attack_round(planted_qemu, bare_elf, tmp_path, coco, 1, PLANTED, tally, meddled=True)
    tell(f"{coco}: the planted error after {tally.calls} calls")


async def test_control_the_attack_finds_a_planted_leak(
    planted_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="LeakSanitizer: detected memory leaks"):
        await attack_round(planted_qemu, bare_elf, tmp_path, "sw-protected", 1, LEAKING, Tally())


def test_control_a_report_is_a_finding() -> None:
    log = "==7==ERROR: AddressSanitizer: heap-use-after-free\n../x.c:3:2: runtime error: shift\nfine\n"
    assert len(findings(log)) == 4
    assert findings("fine\n") == []
