# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest on a host that is busy: its clock keeps the host's time, and its timers are found."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.guest.devices import guest


pytestmark = [pytest.mark.guest, pytest.mark.long, pytest.mark.timeout(600)]

PER_CPU = 6  # load 12 on two CPUs
DEADLINE_S = 500
SLEEP_S = 6
SCRIPT = (
    f"dmesg | grep -E 'MP-BIOS|TSC unstable|soft lockup|timer does' && echo BAD; "
    f"echo BEGIN; sleep {SLEEP_S}; echo END"
)


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep every CPU busy with programs that have nothing to do with the guest."""
    with ExitStack() as stack:
        for _ in range(PER_CPU * (os.cpu_count() or 1)):
            program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(program.wait)
            stack.callback(program.kill)
        yield


@pytest.mark.fault("F7", "F22")
@pytest.mark.parametrize("coco", ["off", "generic", "tdx", "sev-snp"])
@pytest.mark.usefixtures("busy")
async def test_a_guests_clock_keeps_the_hosts_time(tmp_path: Path, coco: str) -> None:
    async with guest(SCRIPT, tmp_path, coco=coco) as vm:
        await vm.console.wait_for("BEGIN", fail=["BAD", "panic"], timeout_s=DEADLINE_S)
        begun = time.monotonic()
        await vm.console.wait_for("END", fail=["panic", "soft lockup"], timeout_s=DEADLINE_S)
        assert time.monotonic() - begun > 0.8 * SLEEP_S
        await vm.stop()
