# SPDX-License-Identifier: GPL-2.0-or-later
"""A TD's kernel while the host looks at its memory."""

import json
from pathlib import Path

import pytest

from cvmlab.images.boot_files import resolve
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.program import cvmlab, finish, start, wait_for_run, wait_for_text


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


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 82, "(pending) before it had accepted it"),
        (("attributes=1", "sept-ve-disable=off"), 255, "EPT-violation"),
    ],
    ids=["stopped", "told"],
)
def test_a_page_that_the_host_takes_away(options: tuple[str, ...], code: int, said: str) -> None:
    """A TD is stopped, or told by #VE, which Linux, a debug TD then, answers with a panic."""
    fill = "dd if=/dev/zero of=/tmp/f bs=1M count=400 2>/dev/null"
    words = [word for option in options for word in ("--coco-option", option)]
    script = f"{fill}; echo here-it-is; while true; do {fill}; done"
    with start(
        "boot", "--name", "victim", "--coco", "tdx", *words, "--exec", script, "--json", "-"
    ) as process:  # fmt: skip
        wait_for_text(wait_for_run("victim").path / "console.log", "here-it-is")
        arguments = {"id": "ram0", "ranges": [{"gpa": 256 << 20, "size": 512 << 20}]}
        # The VM may end before the answer is there.
        cvmlab("qmp", "victim", "restricted-memory-discard", json.dumps(arguments))
        done = finish(process)
    assert done.code == code
    assert said in done.result.message + done.err
