# SPDX-License-Identifier: GPL-2.0-or-later
"""Design invariants 2, 4, 5, 6 and 7 on the bare-metal guest, over random histories.

Each check is also run on something that was tampered with, where it must fail.
"""

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.generations.syscalls import fallocate
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.replay import replay
from cvmlab.memory.states import STATE_MASK, profiles
from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare import BareGuest
from tests.qemu.bare_machine import EDU_BUFFER, EDU_DEVICE, BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.plain import BACKEND, QmpRefusedError, machine, plain_qemu


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected"]
AREA_PAGES = 512
STEPS = 120
PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


async def random_step(vm: BareMachine, generator: random.Random) -> None:
    """Do one thing that the host or the guest may ask for; being refused is fine."""
    first = generator.randrange(AREA_PAGES - 32)
    count = generator.choice([1, 1, 2, 17, 32])
    what = generator.choice(["touch", "convert", "convert", "accept", "discard", "poison"])
    try:
        match what:
            case "touch":
                vm.guest.run("touch", page(first), count)
            case "convert":
                to = generator.choice(["shared", "private"])
                content = generator.choice(["discard", "preserve"])
                await vm.convert(to, page(first), count=count, content=content)
            case _:
                await vm.change(what, page(first), count=count)
    except CommandRefused:
        pass


@pytest.mark.parametrize("seed", range(3))
class TestStorage:
    """Invariant 2: st_blocks of both files equals the table, exactly, after every step."""

    async def test_a_page_is_in_exactly_one_file(self, boot: Boot, seed: int) -> None:
        generator = random.Random(seed)
        async with boot(coco="sw-protected") as vm:
            for _ in range(STEPS):
                await random_step(vm, generator)
                vm.assert_storage()
            counts = vm.table.counts()
            assert min(counts.private, counts.shared, counts.poisoned) > 0

    async def test_control_a_byte_in_the_wrong_file_is_noticed(self, boot: Boot, seed: int) -> None:
        async with boot(coco="sw-protected") as vm:
            await random_step(vm, random.Random(seed))
            vm.guest.done("write", page(AREA_PAGES), 1)
            fds = vm.files.fds
            assert fds.shared is not None
            os.pwrite(fds.shared, b"\1", page(AREA_PAGES))
            with pytest.raises(AssertionError, match="shared"):
                vm.assert_storage()
            fallocate(fds.shared, PUNCH_HOLE, page(AREA_PAGES), PAGE_SIZE)  # and undo it
            vm.assert_storage()


REFUSED: Sequence[tuple[str, dict[str, object]]] = [
    ("accept", {"ranges": [(0, 1), (3, 1)]}),  # the second is private already
    ("accept", {"ranges": [(4, 1)]}),
    ("convert", {"to": "shared", "ranges": [(0, 1), (5, 1)]}),  # poisoned
    ("convert", {"to": "private", "ranges": [(4, 2)]}),
    ("convert", {"to": "shared", "ranges": [(0, 2), (1, 2)]}),  # overlap
    ("convert", {"to": "shared", "ranges": [(0, 1), (1 << 40, 1)]}),  # no RAM
    ("convert", {"to": "nowhere", "ranges": [(0, 1)]}),
    ("convert", {"to": "shared", "content": "maybe", "ranges": [(0, 1)]}),
    ("discard", {"ranges": [(3, 1), (1 << 40, 1)]}),
    ("poison", {"ranges": [(3, 1), (3, 1)]}),
    ("poison", {"ranges": []}),
    ("invalidate", {"event": "end", "ranges": [(0, 1)]}),
]


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_refused_request_changes_nothing(boot: Boot, coco: str) -> None:
    """Invariant 4.  The last step is legal and does change what is compared."""
    async with boot(coco=coco) as vm:
        vm.guest.done("write", page(3), 0x5EC)
        await vm.convert("shared", page(4))
        await vm.change("poison", page(5))
        before = await everything(vm)
        for verb, arguments in REFUSED:
            with pytest.raises(CommandRefused):
                await ask(vm, verb, arguments)
            assert await everything(vm) == before, (verb, arguments)
            assert await vm.events() == [], (verb, arguments)
        assert vm.guest.value("read", page(3)) == 0x5EC
        await ask(vm, "accept", {"ranges": [(0, 1)]})
        assert await everything(vm) != before


async def ask(vm: BareMachine, verb: str, arguments: dict[str, Any]) -> None:
    ranges = [
        {"gpa": page(first), "size": count * PAGE_SIZE} for first, count in arguments["ranges"]
    ]
    await vm.qmp.execute(
        f"restricted-memory-{verb}", {"id": BACKEND_ID, **arguments, "ranges": ranges}
    )


async def everything(vm: BareMachine) -> tuple[object, ...]:
    """Return the table, all that QEMU counts, and the storage of the files."""
    info = await vm.info()
    await vm.events()
    return vm.table.states().tobytes(), info["pages"], info["counters"], vm.files.storage_bytes()


@pytest.mark.parametrize("coco", PROFILES)
class TestJournal:
    """Invariant 5: the journal alone gives the table."""

    async def test_a_random_history_is_replayed_to_the_table(self, boot: Boot, coco: str) -> None:
        generator = random.Random(11)
        async with boot(coco=coco) as vm:
            for step in range(STEPS):
                await random_step(vm, generator)
                if step == STEPS // 2:
                    vm.guest.done("reset")
                    vm.guest.wait_hello()
            assert await odd(vm, leave_out=None) == 0

    async def test_control_a_missing_record_is_noticed(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.run("touch", page(0), 4)
            await vm.convert("shared", page(1), count=2)
            assert await odd(vm, leave_out=None) == 0
            assert await odd(vm, leave_out=-1) > 0
            assert await odd(vm, leave_out=-2) > 0


async def odd(vm: BareMachine, *, leave_out: int | None) -> int:
    """Replay all records but one; return how many things are wrong with the result."""
    vm.records()
    journal = np.concatenate(vm.journal)
    if leave_out is not None:
        journal = np.delete(journal, leave_out)
    slots = [Slot(s["gpa"], s["offset"], s["size"]) for s in (await vm.info())["slots"]]
    done = replay(journal, profiles()[vm.spec.coco], slots, vm.table.pages)
    wrong = np.count_nonzero((done.table ^ vm.table.states()) & STATE_MASK)
    return len(done.discrepancies) + int(wrong)


CONTROLLER = """
import asyncio, sys
from pathlib import Path
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.vm import Vm

async def main():
    qemu, kernel, run_dir, *roms = map(Path, sys.argv[1:])
    async with Vm(qemu=qemu, kernel=kernel, run_dir=run_dir, rom_dirs=roms) as vm:
        await vm.wait_hello(timeout_s=30)
        print(load_run(run_dir).info.qemu.pid, flush=True)
        await vm.wait_exit(timeout_s=60)

asyncio.run(main())
"""


class TestLosingTheController:
    """Invariant 6: memory stays closed, whatever becomes of who drives QEMU."""

    def test_killed_it_takes_qemu_with_it(
        self, patched_qemu: Path, bare_elf: Path, tmp_path: Path
    ) -> None:
        words = [patched_qemu, bare_elf, tmp_path / "run", *rom_dirs()]
        path = os.pathsep.join(sys.path)
        with subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, *words],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        ) as controller:  # fmt: skip
            assert controller.stdout is not None
            pid = int(controller.stdout.readline())
            pidfd = os.pidfd_open(pid)
            try:
                controller.send_signal(signal.SIGKILL)
                assert wait_readable(pidfd, 10), "QEMU outlived its controller"
            finally:
                os.close(pidfd)

    @pytest.mark.parametrize("coco", PROFILES)
    def test_without_a_connection_the_guest_goes_on_and_memory_stays_closed(
        self, patched_qemu: Path, bare_elf: Path, tmp_path: Path, coco: str
    ) -> None:
        command = [
            *machine(patched_qemu, rom_dirs(), backend=f"{BACKEND},profile={coco}"),
            "-kernel", str(bare_elf), "-device", EDU_DEVICE,
        ]  # fmt: skip
        with plain_qemu(command, tmp_path) as qemu:
            guest = BareGuest(qemu.agent)
            guest.wait_hello()
            with qemu.qmp() as qmp:
                qmp.command(
                    "restricted-memory-convert", id="ram0", to="shared",
                    ranges=[{"gpa": page(1), "size": PAGE_SIZE}],
                )  # fmt: skip
                (before,) = qmp.command("query-restricted-memory")
            guest.write_bytes(page(0), b"\x5e" * 32)
            assert edu_copy(guest, page(0), page(1)) == bytes(32)
            guest.write_bytes(page(2), b"\x11" * 32)
            with qemu.qmp() as qmp:
                (after,) = qmp.command("query-restricted-memory")
                # The control: who is connected can open it.
                qmp.command(
                    "restricted-memory-convert", id="ram0", to="shared",
                    ranges=[{"gpa": page(0), "size": PAGE_SIZE}],
                )  # fmt: skip
            guest.write_bytes(page(0), b"\x5e" * 32)
            assert (after["policy"], after["pages"]["shared"]) == ("deny", 1)
            faults = after["counters"]["host-faults"] - before["counters"]["host-faults"]
            assert faults == 1
            assert edu_copy(guest, page(0), page(1)) == b"\x5e" * 32


def edu_copy(guest: BareGuest, source: int, target: int) -> bytes:
    """Have a device copy 32 bytes; return what arrived in *target*, a shared page."""
    guest.done("edu-dma", source, EDU_BUFFER, 32)
    guest.done("edu-dma", EDU_BUFFER, target, 32)
    return guest.read_bytes(target, 32)


def wait_readable(fd: int, timeout_s: float) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


class TestWithoutBackend:
    """Invariant 7, as far as behaviour goes: the plugin is not there until it is asked for."""

    def test_it_boots_and_the_commands_find_nothing(
        self, patched_qemu: Path, bare_elf: Path, tmp_path: Path
    ) -> None:
        command = [
            *machine(patched_qemu, rom_dirs(), backend=None),
            "-kernel", str(bare_elf), "-device", EDU_DEVICE,
        ]  # fmt: skip
        with plain_qemu(command, tmp_path) as qemu, qemu.qmp() as qmp:
            guest = BareGuest(qemu.agent)
            guest.wait_hello()
            assert qmp.command("query-restricted-memory") == []
            for verb in ("accept", "discard", "poison", "convert", "invalidate"):
                with pytest.raises(QmpRefusedError, match="no restricted memory backend 'ram0'"):
                    qmp.command(f"restricted-memory-{verb}", **a_change(verb))
            with pytest.raises(QmpRefusedError, match="no restricted memory backend"):
                qmp.command("restricted-memory-set-policy", id="ram0", policy="share")
            with pytest.raises(QmpRefusedError, match="no restricted memory backend"):
                qmp.command("query-restricted-memory-ranges", id="ram0")
            guest.write_bytes(page(0), b"\x5e" * 32)
            assert edu_copy(guest, page(0), page(1)) == b"\x5e" * 32
            assert guest.run("vmcall", 12, page(0), 1, 0, 0) != (0,)  # nobody answers hypercalls
            assert qmp.events == []


def a_change(verb: str) -> dict[str, object]:
    more = {"convert": {"to": "shared"}, "invalidate": {"event": "start"}}.get(verb, {})
    return {"id": "ram0", "ranges": [{"gpa": page(0), "size": PAGE_SIZE}], **more}
