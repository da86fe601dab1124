# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever goes wrong when a QEMU is replaced, the guest is where it was, or told to be lost."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.base.errors import (
    BuildError,
    CommandRefused,
    ConfigError,
    CvmError,
    DeadlineExceeded,
    UpgradeFailed,
)
from cvmlab.memory.records import SHARED
from cvmlab.qemu.build import stock_qemu_binary
from cvmlab.qemu.versions import VERSIONS
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.qemu.successors import changed, script, signal_successor
from tests.qemu.test_upgrade import FREE, WAIT_S, finish, passes


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("state_home"),
]
MakeVm = Callable[..., Vm]
OWNER = SHARED.fields["owner"][1] if SHARED.fields else 0


async def assert_guest_is_there(vm: Vm, pid: int) -> None:
    """The old QEMU runs the guest, takes commands, and can be replaced after all."""
    assert vm.qemu_pid == pid
    assert (await vm.qmp("query-migrate-parameters"))["mode"] == "normal"
    await passes(vm)
    await vm.convert(FREE, "shared")
    await vm.convert(FREE, "private")
    # No QEMU is named, so this must not be the one that just failed.
    assert (await vm.upgrade()).old_pid == pid
    await passes(vm)
    await finish(vm)


OTHERS: dict[str, tuple[Mapping[str, str], tuple[str, ...], str]] = {
    "fresh private file": ({"private-fd=": "private-fd=FRESH-"}, (), "memory files differ"),
    "fresh table": ({"table-fd=": "table-fd=FRESH-"}, (), "memory files differ"),
    "fresh ring": ({"ring-fd=": "ring-fd=FRESH-"}, (), "memory files differ"),
    "another size": ({"128M": "64M"}, (), "another size"),
    "another profile": ({"profile=generic": "profile=sw-protected,layout=in-place"}, (), "profile"),
    "another device": ({}, ("-device", "edu"), "devices differ"),
    "another CPU": ({}, ("-smp", "2"), "numbers of CPUs differ"),
    "no restricted memory": ({"memory-backend=ram0,": ""}, (), "not the machine's memory"),
}


@pytest.mark.fault("L5")
@pytest.mark.parametrize("case", OTHERS)
async def test_a_qemu_that_is_another_machine_is_refused(
    churning: MakeVm, patched_qemu: Path, tmp_path: Path, case: str
) -> None:
    edits, more, sentence = OTHERS[case]
    wrong = changed(tmp_path, patched_qemu, edits, *more)
    async with churning() as vm:
        await passes(vm)
        pid = vm.qemu_pid
        with pytest.raises(CvmError, match=sentence):
            await vm.upgrade(wrong, timeout_s=WAIT_S)
        await assert_guest_is_there(vm, pid)


async def test_the_same_wrapper_without_edits_takes_over(
    churning: MakeVm, patched_qemu: Path, tmp_path: Path
) -> None:
    async with churning() as vm:
        await passes(vm)
        await vm.upgrade(changed(tmp_path, patched_qemu, {}))
        await passes(vm)
        await finish(vm)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("echo it cannot be >&2; exit 3", UpgradeFailed, "status 3: it cannot be"),
        ("kill -9 $$", UpgradeFailed, "SIGKILL"),
        ("exec sleep 100", DeadlineExceeded, "waited 2 s for the new QEMU to start"),
    ],
)
async def test_a_qemu_that_does_not_start_is_given_up(
    churning: MakeVm, tmp_path: Path, text: str, error: type[CvmError], sentence: str
) -> None:
    async with churning() as vm:
        await passes(vm)
        pid = vm.qemu_pid
        with pytest.raises(error, match=sentence):
            await vm.upgrade(script(tmp_path, text), timeout_s=2)
        await assert_guest_is_there(vm, pid)


async def test_a_qemu_without_the_plugin_is_refused(churning: MakeVm) -> None:
    try:
        stock = stock_qemu_binary(VERSIONS[0].name, build=False)
    except BuildError as error:
        pytest.skip(f"there is no unpatched QEMU: {error}")
    async with churning() as vm:
        await passes(vm)
        pid = vm.qemu_pid
        with pytest.raises(CvmError, match="lacks the restricted-memory plugin"):
            await vm.upgrade(stock)
        await assert_guest_is_there(vm, pid)


async def test_a_normal_migration_is_refused(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        for mode in ("cpr-reboot", "normal"):
            await vm.qmp("migrate-set-parameters", mode=mode)
            with pytest.raises(CommandRefused, match="cannot be migrated or saved"):
                await vm.qmp("migrate", uri="exec:cat >/dev/null")
        await assert_guest_is_there(vm, vm.qemu_pid)


async def test_a_paused_vm_is_refused(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        await vm.pause()
        with pytest.raises(ConfigError, match="only a running VM can be upgraded"):
            await vm.upgrade()
        await vm.cont()
        await assert_guest_is_there(vm, vm.qemu_pid)


async def test_only_the_owner_runs_the_guest_and_changes_its_memory(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        await vm.pause()
        os.pwrite(vm.memory_files.fds.ring, (1).to_bytes(8, "little"), OWNER)
        with pytest.raises(CommandRefused, match="belongs to process 1"):
            await vm.convert(FREE, "shared")
        with pytest.raises(CvmError):
            await vm.cont()
        outcome = await vm.wait_exit(timeout_s=WAIT_S)
        assert (outcome.end, outcome.qemu_status) == (End.DIED, 1)
        assert "the guest runs in process 1" in vm.run.qemu_log.read_text()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.02])
async def test_a_cancelled_upgrade_changes_nothing(churning: MakeVm, after_s: float) -> None:
    async with churning() as vm:
        await passes(vm)
        task = asyncio.ensure_future(vm.upgrade())
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.wait([task])
        await passes(vm)
        await finish(vm)


async def hurt(vm: Vm, *, number: int, old: bool, after_s: float) -> BaseException | None:
    """Upgrade while one of the two QEMUs is sent a signal; return what was raised."""
    pid = vm.qemu_pid
    upgrading = asyncio.ensure_future(vm.upgrade(timeout_s=4))
    if old:
        await asyncio.sleep(after_s)
        with suppress(ProcessLookupError):  # it may have handed over, and left
            os.kill(pid, number)
    else:
        await signal_successor(pid, number, after_s)
    await asyncio.wait([upgrading])
    return upgrading.exception()


async def random_harm(make: MakeVm, seed: int, times: int, numbers: list[int]) -> None:
    """However the new QEMU is hurt, the guest runs on in one of the two."""
    generator = random.Random(seed)
    async with make() as vm:
        await passes(vm)
        for _ in range(times):
            number, after_s = generator.choice(numbers), generator.uniform(0, 0.05)
            pid = vm.qemu_pid
            error = await hurt(vm, number=number, old=False, after_s=after_s)
            if error is None and vm.qemu_pid != pid:
                # It may have been hurt when the guest was its own already.
                with suppress(ProcessLookupError):
                    os.kill(vm.qemu_pid, signal.SIGCONT)
            if number == signal.SIGKILL and error is None:
                outcome = await vm.wait_exit(timeout_s=WAIT_S)
                assert outcome.end is End.DIED
                return
            await passes(vm)
        await finish(vm)


@pytest.mark.parametrize("seed", range(3))
async def test_a_new_qemu_that_stalls_or_dies_harms_nobody(churning: MakeVm, seed: int) -> None:
    await random_harm(churning, seed, 3, [signal.SIGKILL, signal.SIGSTOP])


async def kill_the_old(make: MakeVm, after_s: float) -> None:
    """The guest is in the new QEMU, and right, or it is lost, and that is told."""
    async with make() as vm:
        await passes(vm)
        error = await hurt(vm, number=signal.SIGKILL, old=True, after_s=after_s)
        if error is None:
            await passes(vm)
            await finish(vm)
        else:
            assert isinstance(error, CvmError)
            outcome = await vm.wait_exit(timeout_s=WAIT_S)
            assert outcome.end is End.DIED


@pytest.mark.parametrize("after_s", [0.0, 0.015, 0.03])
async def test_an_old_qemu_that_is_killed_leaves_the_new_one_right_or_is_told(
    churning: MakeVm, after_s: float
) -> None:
    await kill_the_old(churning, after_s)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(40))
async def test_kills_at_many_moments(churning: MakeVm, seed: int) -> None:
    generator = random.Random(seed)
    await random_harm(churning, seed, 5, [signal.SIGKILL])
    await kill_the_old(churning, generator.uniform(0, 0.06))
