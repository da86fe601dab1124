# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a plan: boot, wait for what is expected; bootjudge.py says how it went."""

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
from pathlib import Path
from typing import Any

from cvmlab.bootjudge import Finished, Start, collect, names
from cvmlab.bootplan import Plan
from cvmlab.budgets import Ending
from cvmlab.channel import Subscription
from cvmlab.errors import DeadlineExceeded, GuestPanic, MarkerNotSeen, VmExited
from cvmlab.guestobject import GUEST_OBJECTS
from cvmlab.outcome import End
from cvmlab.outcome import Outcome as VmOutcome
from cvmlab.qmp import QmpEvent
from cvmlab.recording import NAMES_FILE, encode_names
from cvmlab.result import Outcome, to_json
from cvmlab.states import Counter
from cvmlab.vm import Vm


Watch = Callable[[Vm], Coroutine[Any, Any, None]]
Companion = Callable[[Vm], AbstractAsyncContextManager[object]]
LookAt = Callable[[Path], None]

_BOOTED = "the guest booted and powered off"
_NEVER = "(?!)"
_LAST_WORDS_S = 3.0  # a panic's call trace follows the line that says so
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_plan(
    plan: Plan,
    *,
    watch: Watch | None = None,
    companion: Companion = nullcontext,
    look_at: LookAt | None = None,
) -> Finished:
    """Boot *plan* and return how it went; raise only for what kept it from starting or judging.

    *watch* runs beside it, to show how far it is.  *companion* is entered when the VM is there and
    left when all is drained and result.json written; *look_at* is given the run folder then, before
    it may be removed.  SIGINT and SIGTERM end the run in good order.
    """

    def keep(finished: Finished) -> bool:
        return plan.keep or finished.result.outcome is not Outcome.OK

    start = Start.now()
    vm = Vm(plan.spec, setting=plan.setting, paused=True)
    try:
        async with vm, companion(vm), _beside(vm, watch):
            with _interruption() as interrupted:
                ending, ended_ns = await _live(vm, plan, interrupted)
                await vm.stop()
            finished = collect(plan, vm, start, ending, ended_ns)
            vm.run.write(vm.run.result.name, to_json(finished.result))
            if look_at is not None or keep(finished):
                vm.run.write(NAMES_FILE, encode_names(names(plan, vm)))
        if look_at is not None:
            look_at(vm.run.path)
    except asyncio.CancelledError:
        with suppress(VmExited):  # it had no folder yet
            vm.run.close(keep=plan.keep)
        raise
    vm.run.close(keep=keep(finished))
    return finished


@asynccontextmanager
async def _beside(vm: Vm, watch: Watch | None) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = None if watch is None else group.create_task(watch(vm))
        try:
            yield
        finally:
            if task is not None:
                task.cancel()


@contextmanager
def _interruption() -> Iterator[asyncio.Event]:
    """Yield an event that the first stop signal sets; a second one acts as it always does."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}

    def forget() -> None:
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def interrupt() -> None:
        event.set()
        forget()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        yield event
    finally:
        forget()


async def _live(vm: Vm, plan: Plan, interrupted: asyncio.Event) -> tuple[Ending, int]:
    """Let the guest run until something ends it; return what, and when (CLOCK_MONOTONIC, ns)."""

    async def interruption() -> Ending:
        await interrupted.wait()
        return Ending(interrupted="interrupted")

    with vm.qmp_events() as events:
        if not plan.paused:
            await vm.cont()
        ending = await _first(
            interruption(), _guest(vm, plan), _panic(vm, plan), _policy_stop(vm, plan, events)
        )
    return ending, time.monotonic_ns()


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
            await vm.wait_for(plan.expect, timeout_s=plan.timeout_s)
            if not plan.runs_command:
                return Ending(good=f"{plan.expect!r} was seen on the console")
        left = max(deadline - time.monotonic(), 0)
        return _ending(await vm.wait_exit(timeout_s=left), plan)
    except GuestPanic as error:
        return await _panicked(vm, error)
    except MarkerNotSeen as error:
        return Ending(marker_missing=error.message)
    except DeadlineExceeded as error:
        # The last wait had only what the ones before had left of the time.
        whole = DeadlineExceeded(error.awaited, plan.timeout_s, last_lines=error.last_lines)
        return Ending(timeout=whole.message)
    except VmExited as error:
        return Ending(qemu_died=error.message)


def _ending(outcome: VmOutcome, plan: Plan) -> Ending:
    status = outcome.guest_status
    match outcome.end:
        case End.PANICKED:
            return Ending(panic=f"the guest panicked: {outcome.detail}")
        case End.DIED:
            return Ending(qemu_died=outcome.detail)
        case End.REBOOTED if status is None:
            return Ending(qemu_died="the guest reset itself, as after a triple fault")
        case End.POWERED_OFF if status is None and plan.runs_command:
            return Ending(marker_missing="the guest powered off before its command had ended")
        case End.STOPPED:
            return Ending(guest_exit=status, good="the VM was stopped on request")
        case End.REBOOTED | End.POWERED_OFF:
            good = "the guest's command succeeded" if plan.runs_command else _BOOTED
            return Ending(guest_exit=status, good=good)


async def _panic(vm: Vm, plan: Plan) -> Ending:
    """A guest that panics may then hang for ever: see it on the console."""
    try:
        await vm.console.wait_for(_NEVER, timeout_s=plan.timeout_s)
    except GuestPanic as error:
        return await _panicked(vm, error)
    except (MarkerNotSeen, DeadlineExceeded):
        pass  # the console ended, or time is up: _guest() says so
    return await _forever()


async def _panicked(vm: Vm, error: GuestPanic) -> Ending:
    with suppress(DeadlineExceeded, VmExited):
        await vm.wait_exit(timeout_s=_LAST_WORDS_S)
    return Ending(panic=error.message)


async def _policy_stop(vm: Vm, plan: Plan, events: Subscription[QmpEvent]) -> Ending:
    """A policy may pause the VM, for a debugger to look at; without one, that is the end."""
    async for event in events:
        if event.name == "SHUTDOWN":
            break  # QEMU pauses at power-off, too
        if event.name == "STOP" and plan.spec.restricted and plan.spec.gdb is None:
            counters = vm.pages.counters()
            stops = plan.spec.pending == "stop" or plan.spec.coco in GUEST_OBJECTS
            if counters[Counter.GUEST_FAULTS] and stops:
                return Ending(early_use="the guest touched a page before it had accepted it")
            if counters[Counter.HOST_FAULTS]:
                return Ending(host_stop="the host touched private memory, which stopped the VM")
    return await _forever()


async def _forever() -> Ending:
    await asyncio.Event().wait()
    raise AssertionError
