# SPDX-License-Identifier: GPL-2.0-or-later
"""Whenever a VM is cancelled, nothing is left: no process, descriptor, folder or task.

The autouse fixture of tests/conftest.py checks processes and descriptors.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.base.errors import CvmError
from cvmlab.vm.vm import Vm
from tests.fakes.plan import Plan
from tests.fakes.vms import fake_vm, run_folders


ROOT = Path(__file__).parents[3]
Body = Callable[[Vm], Awaitable[object]]


async def no_tasks_but_this() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def cancel_at_turn(work: Callable[[], Awaitable[object]], turn: int) -> bool:
    """Cancel *work* after *turn* turns of the event loop; return whether it was still running."""

    async def run() -> None:
        await work()

    task = asyncio.ensure_future(run())
    for _ in range(turn):
        await asyncio.sleep(0)
        if task.done():
            break
    cancelled = task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return cancelled


@pytest.mark.parametrize("turn", [0, 1, 2, 3, 5, 8, 13])
async def test_cancelled_in_an_early_turn_of_its_start(
    tmp_path: Path, state_home: Path, turn: int
) -> None:
    async def work() -> None:
        async with fake_vm(tmp_path, Plan()):
            await asyncio.Event().wait()

    assert await cancel_at_turn(work, turn)
    await no_tasks_but_this()
    assert run_folders(state_home) == []


STAGES = {
    "before the greeting": Plan(no_greeting=True),
    "negotiating": Plan(on={"qmp_capabilities": "hang"}),
    "asking the version": Plan(on={"query-version": "hang"}),
    "asking for commands": Plan(on={"query-commands": "hang"}),
    "asking for types": Plan(on={"qom-list-types": "hang all"}),
    "asking for the memory": Plan(on={"query-restricted-memory": "hang"}),
    "starting the CPUs": Plan(on={"cont": "hang all"}, ignore_sigterm=True),
}


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelled_while_it_starts(tmp_path: Path, state_home: Path, stage: str) -> None:
    vm = fake_vm(tmp_path, STAGES[stage])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), vm:
            pytest.fail("it should not have started")
    await no_tasks_but_this()
    assert run_folders(state_home) == []


async def _pending_command(vm: Vm) -> None:
    await vm.convert("0+4K", "shared")


async def _events(vm: Vm) -> None:
    with vm.events() as events:
        async for _ in events:
            pass


BODIES: dict[str, Body] = {
    "waiting for text": lambda vm: vm.wait_for("never"),
    "waiting for the end": lambda vm: vm.wait_exit(),
    "waiting for an answer": _pending_command,
    "reading events": _events,
    "stopping": lambda vm: vm.stop(),
    "doing something else": lambda vm: asyncio.Event().wait(),
}


@pytest.mark.parametrize("body", BODIES)
async def test_cancelled_while_it_runs(tmp_path: Path, state_home: Path, body: str) -> None:
    plan = Plan(on={"restricted-memory-convert": "hang", "quit": "hang"})
    reached = asyncio.Event()

    async def work() -> None:
        async with fake_vm(tmp_path, plan, stop_timeout_s=5.0) as vm:
            reached.set()
            await BODIES[body](vm)

    task = asyncio.create_task(work())
    await reached.wait()
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await no_tasks_but_this()
    assert run_folders(state_home) == []


async def test_cancelled_twice_while_it_ends(tmp_path: Path, state_home: Path) -> None:
    plan = Plan(on={"quit": "hang all"}, ignore_sigterm=True)
    leaving = asyncio.Event()

    async def work() -> None:
        async with fake_vm(tmp_path, plan, stop_timeout_s=5.0):
            leaving.set()

    task = asyncio.create_task(work())
    await leaving.wait()
    for _ in range(3):
        await asyncio.sleep(0.02)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_body_that_fails_after_qemu_died_reports_its_own_error(
    tmp_path: Path, state_home: Path
) -> None:
    plan = Plan(boot=({"die": -9},))

    async def work() -> None:
        async with fake_vm(tmp_path, plan) as vm:
            await vm.wait_exit(timeout_s=5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()


SCRIPT = """
import asyncio, sys
from pathlib import Path
from cvmlab.vm.vm import Vm

async def main():
    async with Vm(qemu=Path(sys.argv[1]), memory="64M", run_dir=Path(sys.argv[2])) as vm:
        print(vm._running.process.pid, flush=True)
        await vm.wait_for("never")

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_qemu_does_not_outlive_a_controller_that_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    qemu = Plan(ignore_sigterm=True).install(tmp_path / "fake")
    controller = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(qemu), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT / "control")},
    )
    with controller:
        assert controller.stdout is not None
        pidfd = os.pidfd_open(int(controller.stdout.readline()))
        try:
            controller.send_signal(number)
            assert controller.wait(5) != 0
            signal_end(pidfd)
        finally:
            os.close(pidfd)


def signal_end(pidfd: int) -> None:
    """Wait until the process is gone; it is not our child, so its end makes the pidfd readable."""
    readable, _, _ = select.select([pidfd], [], [], 5)
    assert readable, "QEMU outlived its controller"


async def test_errors_of_this_package_need_no_traceback(tmp_path: Path, state_home: Path) -> None:
    with pytest.raises(CvmError) as caught:
        async with fake_vm(tmp_path, Plan(exit_at_start=1)):
            pass
    assert "\n" not in caught.value.message
