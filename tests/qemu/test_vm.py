# SPDX-License-Identifier: GPL-2.0-or-later
"""The controller with the patched QEMU and the bare-metal guest: what the fake only promises."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab.base.errors import (
    BuildError,
    CommandRefused,
    ConfigError,
    HostFault,
    PluginError,
    VmExited,
)
from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.records import Actor, Kind
from cvmlab.memory.states import PageState
from cvmlab.qemu.build import rom_dirs, stock_qemu_binary
from cvmlab.qemu.versions import VERSIONS
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.outcome import End
from cvmlab.vm.sync import SyncVm
from cvmlab.vm.vm import Vm


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("state_home"),
]
MakeVm = Callable[..., Vm]
AREA = 0x2000000


@pytest.fixture
def options(patched_qemu: Path, bare_elf: Path) -> dict[str, object]:
    return {
        "qemu": patched_qemu, "kernel": bare_elf, "memory": "128M", "rom_dirs": rom_dirs(),
    }  # fmt: skip


@pytest.fixture
def make_vm(options: dict[str, object]) -> MakeVm:
    def make(**more: object) -> Vm:
        return Vm(**(options | more))  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
async def test_plugin_table_and_query_agree_on_every_page(make_vm: MakeVm, coco: str) -> None:
    async with make_vm(coco=coco) as vm:
        assert await vm.wait_hello(timeout_s=30) == "bare-1"
        await vm.pause()
        counts = vm.pages.counts()
        reply = (await vm.query()).pages
        assert counts.total == vm.pages.total == (128 << 20) // PAGE_SIZE
        assert counts == type(counts)(reply.pending, reply.private, reply.shared, reply.poisoned)
        runs = vm.pages.runs()
        assert runs == await vm.query_runs()
        in_slots = sum(slot.size for slot in vm.pages.slots)
        assert sum(run.range.size for run in runs) == in_slots
        outcome = await vm.stop()
    assert (outcome.end, outcome.qemu_status) == (End.STOPPED, 0)


async def test_thousands_of_ranges_in_one_call(make_vm: MakeVm) -> None:
    ranges = [GpaRange(AREA + page * 2 * PAGE_SIZE, PAGE_SIZE) for page in range(9000)]
    async with make_vm() as vm:
        await vm.wait_hello(timeout_s=30)
        before = vm.pages.counts().shared
        assert await vm.convert(ranges, "shared") == 9000
        assert vm.pages.counts().shared == before + 9000
        assert vm.pages.state_of(AREA) is PageState.SHARED
        assert vm.pages.state_of(AREA + PAGE_SIZE) is not PageState.SHARED
        assert await vm.convert(ranges, "private") == 9000
        await vm.stop()
        converted = JournalFile(vm.run.events).of_kind(Kind.CONVERT)
        asked = converted[converted["actor"] == Actor.MONITOR]
        assert int(asked["pages"].sum()) == 18000
        assert vm.pages.counters()["to_shared"] >= 9000


async def test_a_refusal_changes_nothing(make_vm: MakeVm) -> None:
    async with make_vm() as vm:
        await vm.wait_hello(timeout_s=30)
        assert await vm.poison(GpaRange(AREA + PAGE_SIZE, PAGE_SIZE)) == 1
        before = vm.pages.runs()
        with pytest.raises(CommandRefused, match="page-poisoned"):
            await vm.convert(GpaRange(AREA, 4 * PAGE_SIZE), "shared")
        assert vm.pages.runs() == before
        with pytest.raises(CommandRefused):
            await vm.qmp("restricted-memory-convert", id="ram0", to="shared", ranges=[])


async def test_a_host_access_is_counted_told_and_asserted(make_vm: MakeVm, tmp_path: Path) -> None:
    async with make_vm() as vm:
        await vm.wait_hello(timeout_s=30)
        await vm.accept(GpaRange(AREA, PAGE_SIZE))
        vm.pages.assert_no_host_faults()
        with vm.qmp_events() as events:
            with pytest.raises(CommandRefused):
                await vm.qmp("pmemsave", val=AREA, size=64, filename=str(tmp_path / "leak"))
            async with asyncio.timeout(30):
                async for event in events:
                    if event.name == "RESTRICTED_MEMORY_FAULT":
                        break
        assert (event.data["actor"], event.data["write"]) == ("monitor", False)
        with pytest.raises(HostFault):
            vm.pages.assert_no_host_faults()
        await vm.stop()
        assert vm.journal.first_faults
        assert vm.last_info is not None
        assert vm.last_info.counters["host-faults"] == vm.journal.count(Kind.HOST_FAULT)


async def test_a_reset_that_is_not_wanted_ends_the_vm(make_vm: MakeVm) -> None:
    async with make_vm() as vm:
        await vm.wait_hello(timeout_s=30)
        await vm.qmp("system_reset")
        outcome = await vm.wait_exit(timeout_s=30)
    assert (outcome.end, outcome.qemu_status, outcome.exit_code) == (End.REBOOTED, 0, 83)


async def test_an_allowed_reset_starts_afresh(make_vm: MakeVm) -> None:
    async with make_vm(allow_reboot=True) as vm:
        await vm.wait_hello(timeout_s=30)
        await vm.convert(GpaRange(AREA, 16 * PAGE_SIZE), "shared")
        before = vm.pages.counters()["resets"]
        with vm.events() as events:
            await vm.qmp("system_reset")
            async with asyncio.timeout(30):
                async for batch in events:
                    if (batch["kind"] == Kind.RESET).any():
                        break
        # SeaBIOS answers a reset of a booted machine with one of its own.
        assert vm.pages.counters()["resets"] > before
        assert vm.pages.state_of(AREA) is PageState.PENDING


async def test_another_terminal_operates_and_stops_it(make_vm: MakeVm) -> None:
    async with make_vm(name="shown") as vm:
        await vm.wait_hello(timeout_s=30)
        async with Vm.attach("shown") as other:
            assert await other.convert(GpaRange(AREA, 8 * PAGE_SIZE), "shared") == 8
            assert other.pages.counts().shared == vm.pages.counts().shared
            await other.stop()
        assert (await vm.wait_exit(timeout_s=30)).end is End.STOPPED


async def test_a_second_controller_on_its_files_is_refused(make_vm: MakeVm) -> None:
    async with make_vm() as vm:
        run = load_run(vm.run.path)
        assert run is not None
        assert run.info.files is not None
        held = run.info.files
        fds = BackendFds(held.private, held.shared, held.table, held.ring)
        with (
            RestrictedFiles.of_process(run.info.qemu.pid, run.info.memory_bytes, fds) as files,
            pytest.raises(ConfigError, match="already bound to a VM"),
        ):
            files.bind()


async def test_a_killed_qemu_is_told(make_vm: MakeVm) -> None:
    async with make_vm() as vm:
        await vm.wait_hello(timeout_s=30)
        run = load_run(vm.run.path)
        assert run is not None
        os.kill(run.info.qemu.pid, signal.SIGKILL)
        with pytest.raises(VmExited):
            await vm.wait_for("never", timeout_s=30)
        outcome = await vm.wait_exit(timeout_s=30)
    assert (outcome.end, outcome.qemu_status, outcome.exit_code) == (End.DIED, -9, 84)


async def test_cancelled_it_leaves_nothing(make_vm: MakeVm, state_home: Path) -> None:
    async def work() -> None:
        async with make_vm() as vm:
            await vm.wait_for("never")

    for seconds in (0.01, 0.05, 0.1, 0.5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), seconds)
        assert not folders(state_home)


def folders(state_home: Path) -> list[Path]:
    return list(state_home.glob("cvmlab/runs/*"))


SCRIPT = """
import asyncio, sys
from pathlib import Path
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.vm import Vm

async def main():
    qemu, kernel, run_dir, *roms = map(Path, sys.argv[1:])
    async with Vm(qemu=qemu, kernel=kernel, run_dir=run_dir, rom_dirs=roms) as vm:
        print(load_run(vm.run.path).info.qemu.pid, flush=True)
        await vm.wait_for("never")

asyncio.run(main())
"""


def test_it_dies_with_its_controller(patched_qemu: Path, bare_elf: Path, tmp_path: Path) -> None:
    paths = [patched_qemu, bare_elf, tmp_path / "run", *rom_dirs()]
    argv = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as controller:
        assert controller.stdout is not None
        pidfd = os.pidfd_open(int(controller.stdout.readline()))
        controller.kill()
    try:
        _wait_gone(pidfd)
    finally:
        os.close(pidfd)


def _wait_gone(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 10)[0], "QEMU outlived its controller"


async def test_an_unpatched_qemu_is_refused(make_vm: MakeVm) -> None:
    try:
        stock = stock_qemu_binary(VERSIONS[0].name, build=False)
    except BuildError as error:
        pytest.skip(f"there is no unpatched QEMU: {error}")
    with pytest.raises(PluginError, match="lacks the restricted-memory plugin") as caught:
        async with make_vm(qemu=stock):
            pass
    assert "cvmlab build" in str(caught.value.hint)


async def test_a_tebibyte_costs_only_what_is_touched(make_vm: MakeVm) -> None:
    async with make_vm(memory="1T") as vm:
        await vm.wait_hello(timeout_s=40)
        assert vm.pages.counts().total == 1 << 28
        assert vm.pages.counts().pending > 0.9999 * (1 << 28)
        assert vm.pages.heat(100).sum() == 1 << 28
        assert len(vm.pages.runs(limit=1000)) < 1000
        held = load_run(vm.run.path)
        assert held is not None
        assert held.info.files is not None
        table = Path(f"/proc/{held.info.qemu.pid}/fd/{held.info.files.table}")
        assert table.stat().st_blocks * 512 < 1 << 20  # noqa: ASYNC240 - procfs does not block


def test_without_async(options: dict[str, object]) -> None:
    with SyncVm(**options) as vm:  # type: ignore[arg-type]
        assert vm.wait_hello(timeout_s=30) == "bare-1"
        assert vm.convert(GpaRange(AREA, PAGE_SIZE), "shared") == 1
        assert vm.query().pages.shared == vm.pages.counts().shared
