# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded guest executes the same again, is stopped at any moment, and is walked back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cvmlab.base.errors import CommandRefused, VmExited
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from cvmlab.replays.recorder import Execution
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote
from tests.qemu.snp import SNP, to_shared
from tests.qemu.tdx import SHARED, SUCCESS, map_gpa, tdcall
from tests.qemu.test_services import UNAVAILABLE, answered, ask, deaf, prepare_quotes, quoting
from tests.qemu.test_tdx_gdb import address_of, registers


pytestmark = pytest.mark.qemu

DEADLINE_S = 30.0
RCX, RDX, R11, R12, RIP = 2, 3, 11, 12, 16  # in gdb's order
RET = 0xC3  # leaves a function
MAP_GPA = 0x10001
TOUCHED = (1, 2, 5, 9)
BAD = page(3)


def log(folder: Path) -> Path:
    return folder / "execution.log"


def recorded(boot: Boot, folder: Path, **options: Any) -> Any:
    return boot(execution=Execution(log(folder), replayed=False), **options)


@asynccontextmanager
async def replayed(boot: Boot, folder: Path, **options: Any) -> AsyncIterator[BareMachine]:
    """Yield the machine before its first instruction; it is looked at, and never asked."""
    execution = Execution(log(folder), replayed=True)
    async with boot(execution=execution, cont=False, **options) as vm:
        vm.is_intact = False
        yield vm


def journal(vm: BareMachine) -> NDArray[np.void]:
    vm.records()
    return np.concatenate(vm.journal)


async def status(vm: BareMachine) -> str:
    return str((await vm.qmp.execute("query-status"))["status"])


async def run_until_stopped(vm: BareMachine) -> str:
    """Let the guest run until it stops for any reason; return QEMU's word for its state."""
    await vm.qmp.execute("cont")
    async with asyncio.timeout(DEADLINE_S):
        while (found := await status(vm)) == "running":
            vm.records()  # a ring that is full would make it wait
    return found


async def stop_at(vm: BareMachine, **moment: object) -> None:
    await vm.qmp.execute("restricted-memory-stop-at", {"id": BACKEND_ID, **moment})


async def touch(vm: BareMachine) -> None:
    for number in TOUCHED:
        vm.guest.write_bytes(page(number), bytes([number] * 8))


@pytest.mark.parametrize("coco", ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"])
async def test_the_journal_of_a_replay_is_the_same_to_the_byte(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    async with recorded(boot, tmp_path, coco=coco) as vm:
        await touch(vm)
        was = journal(vm)
        table = vm.table.states().tobytes()
    async with replayed(boot, tmp_path, coco=coco) as vm:
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was.tobytes()
        assert vm.table.states().tobytes() == table
    assert len(was) > len(TOUCHED)
    assert (was["htime_ns"] == was["vtime_ns"]).all()
    assert "no exact time" not in (tmp_path / "qemu.log").read_text()


async def test_a_service_that_does_not_accept_holds_a_recording_for_its_deadline(
    boot: Boot, tmp_path: Path
) -> None:
    """The guest waits while it is recorded, but no longer; the replay needs no service."""
    path = tmp_path / "q.sock"
    with deaf(path):
        async with recorded(boot, tmp_path, **quoting(path)) as vm:
            prepare_quotes(vm, 1)
            assert ask(vm, 0) == SUCCESS
            assert await answered(vm, 0) == UNAVAILABLE
            was = journal(vm)
    async with replayed(boot, tmp_path, **quoting(path)) as vm:
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was.tobytes()


async def test_one_answer_that_differs_is_noticed(boot: Boot, tmp_path: Path) -> None:
    """The control: a log of another execution leads to another journal, or to none."""
    async with recorded(boot, tmp_path) as vm:
        await touch(vm)
        was = journal(vm)
    async with recorded(boot, tmp_path) as vm:
        vm.guest.write_bytes(page(20), bytes(8))
    async with replayed(boot, tmp_path) as vm:
        await run_until_stopped(vm)
        assert journal(vm).tobytes() != was.tobytes()


async def test_a_replay_stops_at_an_event_of_a_page(boot: Boot, tmp_path: Path) -> None:
    async with recorded(boot, tmp_path) as vm:
        await touch(vm)
        was = journal(vm)
    async with replayed(boot, tmp_path) as vm:
        await stop_at(vm, event="accept", gpa=page(5) + 8, pc=1)
        assert await run_until_stopped(vm) == "paused"
        found = journal(vm)
        assert (int(found[-1]["kind"]), int(found[-1]["gpa"])) == (Kind.ACCEPT, page(5))
        assert found.tobytes() == was[: len(found)].tobytes()
        stop = (await vm.info())["stopped"]
        assert (stop["reason"], stop["text"]) == ("asked", f"record {len(found)} is there")
        await stop_at(vm, record=len(found) + 1)
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was[: len(found) + 1].tobytes()
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was.tobytes()


async def test_a_record_has_the_count_of_instructions_before_its_own(
    boot: Boot, tmp_path: Path
) -> None:
    """An instruction that is fetched from a new page and writes to one makes two records at one time.

    QEMU counts an instruction between the two.
    """
    code, data = page(20) + PAGE_SIZE - 2, page(30)
    async with recorded(boot, tmp_path) as vm:
        vm.guest.write_bytes(page(21), bytes([RET] * 8))
        assert vm.guest.value("call-on", code, data) == data
        was = journal(vm)
    accepted = was[was["kind"] == Kind.ACCEPT]
    fetched, written = (accepted[accepted["gpa"] == page(number)] for number in (20, 30))
    assert len(fetched) == len(written) == 1
    assert fetched["rip"] == written["rip"]
    assert fetched["vtime_ns"] == written["vtime_ns"]


async def test_what_the_host_does_is_not_in_the_log(boot: Boot, tmp_path: Path) -> None:
    async with recorded(boot, tmp_path) as vm:
        await touch(vm)
        for command, arguments, why in (
            ("restricted-memory-checkpoint", {"name": "x"}, "time goes on in a log"),
            ("restricted-memory-save", {"file": str(tmp_path / "x")}, "being recorded"),
            ("restricted-memory-set-policy", {"policy": "zero"}, "being recorded"),
            ("restricted-memory-follow-writes", {"on": True}, "being recorded"),
        ):
            with pytest.raises(CommandRefused, match=why):
                await vm.qmp.execute(command, {"id": BACKEND_ID, **arguments})
        with pytest.raises(CommandRefused, match="being recorded: its guest may not be changed"):
            await vm.change("convert", page(1), to="shared")
    async with replayed(boot, tmp_path) as vm:
        with pytest.raises(CommandRefused, match="being replayed"):
            await vm.change("convert", page(1), to="shared")


async def test_a_recorded_machine_has_one_cpu(boot: Boot, tmp_path: Path) -> None:
    with pytest.raises(VmExited):
        async with recorded(boot, tmp_path, cpus=2):
            pass
    assert "instructions are counted for one CPU; say -smp 1" in (tmp_path / "qemu.log").read_text()


async def test_a_guest_that_hides_its_cpus_is_not_stopped_at_an_instruction(
    boot: Boot, tmp_path: Path
) -> None:
    async with boot(coco="tdx") as vm:
        tdcall(vm.guest, 1)
        with pytest.raises(CommandRefused, match="CPU state of this guest is encrypted"):
            await stop_at(vm, pc=0x1000)
        for moment, why in (
            ({"gpa": 0x1000}, "gpa says of which event"),
            ({"record": 0}, "numbered from 1"),
            ({"event": "fault"}, "the VM runs: stop it first"),
        ):
            with pytest.raises(CommandRefused, match=why):
                await stop_at(vm, **moment)


async def test_a_fault_is_walked_back_to_the_conversion(boot: Boot, tmp_path: Path) -> None:
    """The planted bug: a TD shares a page, and then uses it as if it were private.

    The debugger is at the fault.  It goes back to the last TDCALL, and that is the one which has
    shared the page; a step further back, the guest is about to make it.
    """
    socket = tmp_path / "gdb"
    options: dict[str, Any] = {"coco": "tdx", "debuggable": True}
    async with recorded(boot, tmp_path, **options) as vm:
        await touch(vm)
        vm.guest.done("map-shared", 47)
        assert map_gpa(vm.guest, SHARED | BAD, PAGE_SIZE) == SUCCESS
        await touch(vm)
        vm.guest.start("read", BAD)
        async with asyncio.timeout(DEADLINE_S):
            while await status(vm) == "running":
                pass
        assert (await vm.info())["stopped"]["reason"] == "guest-fault"
        was = journal(vm)
        vm.is_intact = False
    conversion = was[was["kind"] == Kind.CONVERT][-1]
    gdb_options = options | {"gdb": f"unix:{socket},server=on,wait=off"}
    async with replayed(boot, tmp_path, **gdb_options) as vm:
        await vm.qmp.execute("restricted-memory-checkpoint", {"id": BACKEND_ID, "name": "start"})
        await stop_at(vm, event="fault", gpa=BAD)
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was.tobytes()
        assert vm.state(BAD) is PageState.SHARED
        await asyncio.to_thread(walk_back, vm, socket, int(conversion["rip"]))


def walk_back(vm: BareMachine, socket: Path, tdcall_at: int) -> None:
    with GdbRemote(socket, deadline_s=DEADLINE_S) as gdb:
        assert gdb.ask(f"Z0,{tdcall_at:x},1") == "OK"
        assert gdb.ask("bc").startswith("T05")
        seen = registers(gdb)
        assert seen[RIP] == tdcall_at
        assert (seen[R11], seen[R12]) == (MAP_GPA, SHARED | BAD)
        assert vm.state(BAD) is not PageState.SHARED
        assert gdb.ask("bs").startswith("T05")
        assert registers(gdb)[RIP] < tdcall_at
        assert gdb.ask("s").startswith("T05")
        assert registers(gdb)[RIP] == tdcall_at


async def test_an_snp_guest_is_stopped_before_an_instruction(boot: Boot, tmp_path: Path) -> None:
    options: dict[str, Any] = {**SNP, "debuggable": True}
    async with recorded(boot, tmp_path, **options) as vm:
        to_shared(vm.guest, page(30))
        vm.guest.value("read", page(31))
        was = journal(vm)
    async with replayed(boot, tmp_path, **options) as vm:
        await stop_at(vm, pc=address_of(vm, "probe_read64"))
        assert await run_until_stopped(vm) == "debug"
        stop = (await vm.info())["stopped"]
        assert (stop["reason"], stop["pc"]) == ("asked", address_of(vm, "probe_read64"))
        assert journal(vm).tobytes() == was[: len(journal(vm))].tobytes()
        await run_until_stopped(vm)
        assert journal(vm).tobytes() == was.tobytes()
