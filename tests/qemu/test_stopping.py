# SPDX-License-Identifier: GPL-2.0-or-later
"""What has stopped itself stays stopped, and a signal stops nothing for good."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare import BareGuest
from tests.qemu.bare_machine import page
from tests.qemu.conftest import Boot
from tests.qemu.plain import BACKEND, PlainQmp, machine, plain_qemu


pytestmark = pytest.mark.qemu

ROUNDS = 20
CONVERSIONS = 40
SIGNALLED_MIB = 16


def change(qmp: PlainQmp, verb: str, gpa: int, **more: str) -> None:
    ranges = [{"gpa": gpa, "size": PAGE_SIZE}]
    qmp.command(f"restricted-memory-{verb}", id="ram0", ranges=ranges, **more)


def guest_faults(qmp: PlainQmp) -> int:
    (info,) = qmp.command("query-restricted-memory")
    faults: Any = info["counters"]["guest-faults"]
    return int(faults)


def test_a_conversion_does_not_let_a_stopped_cpu_go_on(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    """With pending=stop a touch stops the VM, once, whatever the host does at that moment."""
    command = [
        *machine(patched_qemu, rom_dirs(), backend=f"{BACKEND},profile=sw-protected,pending=stop"),
        "-kernel", str(bare_elf), "-S",
    ]  # fmt: skip
    with plain_qemu(command, tmp_path) as qemu, qemu.qmp() as qmp:
        accept_all_but(ROUNDS, qmp)
        qmp.command("cont")
        guest = BareGuest(qemu.agent)
        guest.wait_hello()
        for number in range(ROUNDS):
            before = guest_faults(qmp)
            guest.start("write", page(number), 1)
            while not any(event["event"] == "STOP" for event in qmp.events):
                change(qmp, "convert", page(1000), to="shared")
            qmp.wait_event("STOP")
            assert guest_faults(qmp) == before + 1, f"round {number}"
            change(qmp, "accept", page(number))
            qmp.command("cont")
            assert guest.finish() == ()


def accept_all_but(pages: int, qmp: PlainQmp) -> None:
    """Spare firmware and guest a stop for each page but the first *pages* of the test's."""
    runs = qmp.command("query-restricted-memory-ranges", id="ram0")
    pending = [(run["gpa"], run["gpa"] + run["size"]) for run in runs if run["state"] == "pending"]
    parts = [(start, min(end, page(0))) for start, end in pending]
    parts += [(max(start, page(pages)), end) for start, end in pending]
    ranges = [{"gpa": start, "size": end - start} for start, end in parts if start < end]
    qmp.command("restricted-memory-accept", id="ram0", ranges=ranges)


@contextmanager
def stopped_and_continued(pid: int) -> Iterator[None]:
    """Stop the process and let it go on, again and again, while the block runs."""
    enough = threading.Event()

    def disturb() -> None:
        while not enough.wait(0.0005):
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


async def test_signals_do_not_make_a_conversion_fail(boot: Boot) -> None:
    """Linux before 6.6 interrupts fallocate() even for a stop that nobody handles."""
    pages = SIGNALLED_MIB << 8
    async with boot(coco="sw-protected") as vm:
        assert vm.process.pid
        with stopped_and_continued(vm.process.pid):
            for _ in range(CONVERSIONS):
                assert await vm.convert("shared", page(0), count=pages) == pages
                assert await vm.convert("private", page(0), count=pages) == pages
