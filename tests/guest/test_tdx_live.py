# SPDX-License-Identifier: GPL-2.0-or-later
"""A TD's kernel while the host looks at its memory."""

from pathlib import Path

import pytest

from cvmlab.bootspec import BootSpec, Firmware
from cvmlab.build import rom_dirs
from cvmlab.images import resolve
from cvmlab.outcome import End
from cvmlab.ranges import PAGE_SIZE
from cvmlab.vm import Vm


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(300)]

DEADLINE_S = 200
UNIT_PAGES = (2 << 20) // PAGE_SIZE


async def test_unaccepted_memory_is_what_the_host_sees(tmp_path: Path) -> None:
    """At the same moment: the guest waits at its console while both are read."""
    script = "grep Unaccepted /proc/meminfo; echo parked; read told </dev/console"
    files = resolve("debian", exec_command=script)
    spec = BootSpec(
        coco="tdx", firmware=Firmware.OVMF, memory_bytes=6 << 30, rom_dirs=tuple(rom_dirs()),
        kernel=files.kernel, initrd=files.initrd, append=files.append,
    )  # fmt: skip
    async with Vm(spec, run_dir=tmp_path / "run", keep=True) as vm:
        await vm.wait_for("parked", timeout_s=DEADLINE_S)
        pending = vm.pages.counts().pending
        (line,) = (line for line in vm.console.text.splitlines() if "Unaccepted" in line)
        await vm.console.send("\n")
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0)
    unaccepted = int(line.split()[1]) * 1024 // PAGE_SIZE
    assert unaccepted > (2 << 30) // PAGE_SIZE
    assert abs(unaccepted - pending) <= UNIT_PAGES
