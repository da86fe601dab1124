# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU under a bare-metal guest that writes and verifies its memory is replaced."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError, UpgradeFailed
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.records import Actor, Kind
from cvmlab.memory.states import PageState
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.outcome import End
from cvmlab.vm.owner_socket import OWNER_SOCKET, take_files
from cvmlab.vm.vm import Vm
from tests.qemu.conftest import CHURN_AREA as AREA
from tests.qemu.conftest import CHURN_PAGES as PAGES


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("state_home"),
]
MakeVm = Callable[..., Vm]
WAIT_S = 60.0
FREE = GpaRange(AREA + (PAGES + 16) * PAGE_SIZE, 32 * PAGE_SIZE)


async def passes(vm: Vm, count: int = 2) -> None:
    """Wait until the guest has verified its memory *count* times more, and found nothing wrong."""
    for _ in range(count):
        await vm.wait_for(r"pass 0x[0-9a-f]+ right\n", fail=["wrong"], timeout_s=WAIT_S)


async def finish(vm: Vm) -> None:
    """End the guest's work by a key; it says that nothing was wrong, and powers off."""
    await vm.send("x")
    outcome = await vm.wait_exit(timeout_s=WAIT_S)
    assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0), outcome
    assert "wrong" not in vm.console.text


@pytest.mark.parametrize("coco", ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"])
async def test_the_guest_and_all_that_was_counted_outlive_two_qemus(
    churning: MakeVm, coco: str
) -> None:
    async with churning(coco=coco) as vm:
        await passes(vm)
        await vm.convert(FREE, "shared")
        await vm.set_policy("zero")
        before = vm.pages.counters()
        first = await vm.upgrade()
        await passes(vm)
        second = await vm.upgrade()
        await passes(vm)
        assert second.old_pid == first.new_pid != first.old_pid
        assert 0 < second.bytes_sent < 1 << 20
        info = await vm.query()
        assert info.policy == "zero"
        assert vm.pages.state_of(FREE.start) is PageState.SHARED
        assert vm.pages.counters()["to_shared"] == before["to_shared"]
        await vm.convert(FREE, "private")
        await finish(vm)
        converted = JournalFile(vm.run.events).of_kind(Kind.CONVERT)
        asked = converted[converted["actor"] == Actor.MONITOR]
        assert int(asked["pages"].sum()) == 2 * FREE.size // PAGE_SIZE


@pytest.mark.fault("U8")
async def test_a_map_gpa_that_was_put_off_is_not_put_off_from_the_beginning(
    churning: MakeVm,
) -> None:
    """The guest calls three times for a page, and its QEMU is replaced after the second."""
    shared = 1 << 47
    ask = f"tdcall 0 ffcc 0 0 0 0 10001 {shared | FREE.start:x} {PAGE_SIZE:x} 0 0"
    script = f"-- {ask};{ask};churn {AREA:x} {PAGES:x};{ask};--"
    async with churning(coco="tdx", mapgpa="retry:2", append=script) as vm:
        await passes(vm)
        assert vm.pages.state_of(FREE.start) is not PageState.SHARED
        await vm.upgrade()
        await passes(vm)
        await finish(vm)
        assert vm.pages.state_of(FREE.start) is PageState.SHARED


async def test_other_terminals_find_the_new_qemu(churning: MakeVm) -> None:
    async with churning(name="moved") as vm:
        await passes(vm)
        upgrade = await vm.upgrade()
        run = load_run(vm.run.path)
        assert run is not None
        assert run.info.qemu.pid == upgrade.new_pid
        async with Vm.attach("moved") as other:
            assert await other.convert(FREE, "shared") == FREE.size // PAGE_SIZE
        sockets = {path.name for path in vm.run.path.iterdir() if path.is_socket()}
        assert sockets == {"qmp.sock", OWNER_SOCKET}
        await finish(vm)


async def test_another_terminal_asks_the_owner(churning: MakeVm, patched_qemu: Path) -> None:
    async with churning(name="asked") as vm:
        await passes(vm)
        pid = vm.qemu_pid
        words = [sys.executable, "-m", "cvmlab", "upgrade", "asked"]
        told = await run_program(*words, "--qemu", str(patched_qemu))
        assert told == (0, told[1], "")
        version = vm.qemu_version
        assert f"QEMU {version} (process {pid}) was replaced by {version} " in told[1]
        assert f"(process {vm.qemu_pid})\ndowntime " in told[1]
        await passes(vm)
        pid = vm.qemu_pid
        status, out, error = await run_program(*words, "--qemu", "/bin/false", "--json")
        assert (status, out) == (UpgradeFailed.exit_code, "")
        assert "QEMU did not start, it ended with status 1" in error
        assert vm.qemu_pid == pid
        await passes(vm)
        await finish(vm)


async def test_the_owner_hands_out_the_memory_files(churning: MakeVm) -> None:
    async with churning(coco="sw-protected") as vm:
        await passes(vm)
        with await take_files(vm.run.path) as files:
            mine = [os.fstat(fd).st_ino for fd in vm.memory_files.fds.all]
            assert [os.fstat(fd).st_ino for fd in files.fds.all] == mine
            assert files.page_table().states()[FREE.start // PAGE_SIZE] == PageState.PENDING
            with (
                RestrictedFiles.of_process(os.getpid(), files.size_bytes, files.fds) as others,
                pytest.raises(ConfigError, match="already bound"),
            ):
                others.bind()
        assert (vm.run.path / OWNER_SOCKET).stat().st_mode & 0o777 == 0o600
        await finish(vm)
    with pytest.raises(ConfigError, match="owner does not answer"):
        await take_files(vm.run.path)


async def run_program(*words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE)
    out, error = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode, out.decode(), error.decode()


async def test_commands_wait_while_the_qemu_is_replaced(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        upgrading = asyncio.ensure_future(vm.upgrade())
        await asyncio.sleep(0)
        assert await vm.convert(FREE, "shared") == FREE.size // PAGE_SIZE
        assert (await upgrading).new_pid == vm.qemu_pid
        await passes(vm)
        await finish(vm)
