# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a plan: boot, and wait for what is expected.  judge.py turns the end into a result."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvmlab.base.errors import DeadlineExceeded, MarkerNotSeen, VmExited
from cvmlab.base.stop_signals import stop_signals
from cvmlab.boot.endings import ended, follow_console, follow_stops, with_console
from cvmlab.boot.judge import Finished, Start, collect, names
from cvmlab.boot.plan import Plan
from cvmlab.boot.replayed import prepare, until_met
from cvmlab.dump.take import leave_core
from cvmlab.machine.spec import OnPanic
from cvmlab.report.recording import NAMES_FILE, encode_names
from cvmlab.results.budgets import Ending
from cvmlab.results.result import Outcome, to_json
from cvmlab.vm.vm import Vm


Watch = Callable[[Vm], Coroutine[Any, Any, None]]
Companion = Callable[[Vm], AbstractAsyncContextManager[object]]
ReportOn = Callable[[Path], None]


async def run_plan(
    plan: Plan,
    *,
    watch: Watch | None = None,
    companion: Companion = nullcontext,
    report_on: ReportOn | None = None,
) -> Finished:
    """Boot *plan* and return how it went; raise only for what kept it from starting or judging.

    *watch* runs beside it, to show how far it is.  *companion* is entered when the VM is there and
    left when all is drained and result.json written; *report_on* is given the run folder then, before
    it may be removed.  SIGINT and SIGTERM end the run in good order.
    """

    def keep(finished: Finished) -> bool:
        return plan.keep or finished.result.outcome is not Outcome.OK

    start = Start.now()
    vm = _vm_of(plan)
    if plan.keep and vm.spec.debuggable and vm.spec.restricted:
        vm.at_end = leave_core
    try:
        async with vm, companion(vm), _beside(vm, watch):
            with _interruption() as interrupted:
                ending, ended_ns = await _live(vm, plan, interrupted)
                if plan.setting.keep_state and ending.is_wrong:
                    await vm.keep_state()
                await vm.stop()
            # In a thread: a companion may have to answer its broker meanwhile.
            finished = await asyncio.to_thread(collect, plan, vm, start, ending, ended_ns)
            vm.run.write(vm.run.result.name, to_json(finished.result))
            if finished.naming is not None and (report_on is not None or keep(finished)):
                told = await asyncio.to_thread(names, finished.naming, vm)
                vm.run.write(NAMES_FILE, encode_names(told))
        if report_on is not None:
            report_on(vm.run.path)
    except asyncio.CancelledError:
        with suppress(VmExited):  # it had no folder yet
            vm.run.close(keep=plan.keep)
        raise
    vm.run.close(keep=keep(finished))
    return replace(finished, problems=tuple(vm.problems))  # the end of the VM may add one


def _vm_of(plan: Plan) -> Vm:
    if plan.origin is not None:
        return Vm.of_snapshot(plan.origin, plan.setting, paused=True)
    if plan.recording is not None:
        return Vm.of_recording(plan.recording, plan.setting, paused=True)
    return Vm(plan.spec, setting=plan.setting, paused=True)


@asynccontextmanager
async def _beside(vm: Vm, watch: Watch | None) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = None if watch is None else group.create_task(watch(vm))
        try:
            yield
        finally:
            if task is not None:
                task.cancel()


# Of the runs of this process: all of them end at the first signal.
_interrupted: set[asyncio.Event] = set()


@contextmanager
def _interruption() -> Iterator[asyncio.Event]:
    """Yield an event that the first stop signal sets; a second one acts as it always does."""
    event = asyncio.Event()
    _interrupted.add(event)
    try:
        with nullcontext() if len(_interrupted) > 1 else _signals():
            yield event
    finally:
        _interrupted.discard(event)


@contextmanager
def _signals() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in stop_signals()}

    def forget() -> None:
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def interrupt() -> None:
        for event in _interrupted:
            event.set()
        forget()

    for number in before:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        forget()


async def _live(vm: Vm, plan: Plan, interrupted: asyncio.Event) -> tuple[Ending, int]:
    """Let the guest run until something ends it; return what, and when (CLOCK_MONOTONIC, ns)."""

    async def interruption() -> Ending:
        await interrupted.wait()
        return Ending(interrupted="interrupted")

    with vm.qmp_events() as events:
        await prepare(vm, plan)
        if not plan.paused:
            await vm.cont()
        ending = await _first(
            interruption(), _guest(vm, plan), follow_console(vm, plan), follow_stops(plan, events)
        )
    return with_console(until_met(ending, plan), vm, plan), time.monotonic_ns()


async def _first(*works: Coroutine[Any, Any, Ending]) -> Ending:
    """Return what the first one to end returns; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _guest(vm: Vm, plan: Plan) -> Ending:
    """Wait for the marker and, if a command runs or there is no marker, for power-off."""
    deadline = time.monotonic() + plan.timeout_s
    try:
        if plan.expect is not None:
            # follow_console() knows when a panic is the end.
            await vm.wait_for(plan.expect, timeout_s=plan.timeout_s, on_panic=OnPanic.WAIT)
            if not plan.runs_command and plan.spec.on_panic is not OnPanic.EXPECT:
                return Ending(good=f"{plan.expect!r} was seen on the console")
        left = max(deadline - time.monotonic(), 0)
        return ended(await vm.wait_exit(timeout_s=left), plan)
    except MarkerNotSeen as error:
        return _without_marker(vm, plan, error)
    except DeadlineExceeded as error:
        # The last wait had only what the ones before had left of the time.
        whole = DeadlineExceeded(error.awaited, plan.timeout_s, last_lines=error.last_lines)
        return Ending(timeout=whole.message)
    except VmExited as error:
        return Ending(qemu_died=error.message)


def _without_marker(vm: Vm, plan: Plan, error: MarkerNotSeen) -> Ending:
    """The guest ended before its marker: how it ended may say more."""
    if vm.outcome is None:
        return Ending(marker_missing=error.message)
    return replace(ended(vm.outcome, plan), marker_missing=error.message)
