# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest can end, and what shows it: its console, the plugin's stops, and QEMU's own word."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cvmlab.base.channel import Subscription
from cvmlab.base.errors import DeadlineExceeded, GuestPanic, InvariantError, VmExited
from cvmlab.boot.plan import Plan
from cvmlab.machine.spec import OnPanic
from cvmlab.memory.records import Phase
from cvmlab.results.budgets import Ending
from cvmlab.vm.operations import Stop, StopReason, read_stop
from cvmlab.vm.outcome import End, VmOutcome
from cvmlab.vm.qmp import QmpEvent
from cvmlab.vm.vm import Vm


_BOOTED = "the guest booted and powered off"
_LAST_WORDS_S = 3.0  # a panic's call trace follows the line that says so
_CRASH_KERNEL = "crashkernel="
_NOTHING_TO_BOOT = "the firmware found nothing that it can boot"
_REFUSED = "Secure Boot refused what the firmware was to start"


def ended(outcome: VmOutcome, plan: Plan) -> Ending:
    """Return what the end of the VM means for *plan*."""
    status = outcome.guest_status
    match outcome.end:
        case End.PANICKED:
            return panicked(outcome.detail, plan)
        case End.DIED:
            return Ending(qemu_died=outcome.detail)
        case End.TRIPLE_FAULTED:
            rip = None if outcome.stop is None else outcome.stop.pc
            return Ending(triple_fault=f"the guest crashed in {outcome.detail}", rip=rip)
        case End.STOPPED if plan.attended:
            return Ending(guest_exit=status, good="the VM was stopped on request")
        case End.STOPPED | End.REBOOTED | End.POWERED_OFF:
            return _done(plan, status) if status is not None else _unanswered(outcome, plan)


def _done(plan: Plan, status: int | None) -> Ending:
    good = "the guest's command succeeded" if plan.runs_command else _BOOTED
    return Ending(guest_exit=status, good=good)


def _unanswered(outcome: VmOutcome, plan: Plan) -> Ending:
    """The guest ended, and no command had told its status."""
    end = outcome.end
    if outcome.problem is not None:
        return Ending(marker_missing=f"the guest's command could not run: {outcome.problem}")
    if end is End.POWERED_OFF and not plan.runs_command:
        return _done(plan, None)
    awaited = "before its command had ended" if plan.runs_command else "before it powered off"
    if end is End.POWERED_OFF:
        return Ending(marker_missing=f"the guest powered off {awaited}")
    if end is End.STOPPED:
        return Ending(stopped=f"the VM was stopped from outside {awaited}")
    # Without restricted memory, nothing tells one from the other.
    why = "" if plan.spec.restricted else ", by a reboot or a triple fault,"
    return Ending(reset=f"the guest reset itself{why} {awaited}")


def panicked(line: str, plan: Plan) -> Ending:
    """Return what a panic means for *plan*."""
    if plan.spec.on_panic is OnPanic.EXPECT:
        return Ending(good=f"the guest panicked, as expected: {line}", is_wanted=True)
    return Ending(panic=GuestPanic(line).message)


async def follow_console(vm: Vm, plan: Plan) -> Ending:
    """Return when the console shows that the guest can do nothing any more."""
    log = vm.console.kernel_log
    while not vm.console.has_ended:
        if log.panic is not None and plan.spec.on_panic is not OnPanic.WAIT:
            if log.panic_is_over or not _may_have_crash_kernel(plan):
                return await _last_words(vm, plan, log.panic)
        elif log.firmware_gave_up and not plan.attended and not _has_kernel(vm):
            return Ending(not_booted=_not_booted(vm))
        await vm.console.wait_for_more()
    return await _forever()  # the VM ends: somebody else says how


async def _last_words(vm: Vm, plan: Plan, panic: str) -> Ending:
    """A guest that panics may reset, or hang for ever."""
    with suppress(DeadlineExceeded, VmExited):
        await vm.wait_exit(timeout_s=_LAST_WORDS_S)
    return panicked(panic, plan)


def _may_have_crash_kernel(plan: Plan) -> bool:
    """A kernel whose command line is not known may have memory for one."""
    return plan.spec.kernel is None or _CRASH_KERNEL in plan.spec.append


def _has_kernel(vm: Vm) -> bool:
    return vm.spec.restricted and vm.pages.phase >= Phase.KERNEL


def _has_left_firmware(vm: Vm) -> bool:
    """SeaBIOS says nothing on this console, and resets the machine when it finds nothing to boot."""
    if vm.spec.kernel is not None or vm.console.text.strip():
        return True
    return vm.spec.restricted and vm.pages.phase > Phase.FIRMWARE


def _not_booted(vm: Vm) -> str:
    refusal = vm.console.kernel_log.refusal
    return _NOTHING_TO_BOOT if refusal is None else f"{_REFUSED}: {refusal}"


async def follow_stops(plan: Plan, events: Subscription[QmpEvent]) -> Ending:
    """Return when the plugin has stopped the guest; with a debugger, that is no end."""
    async for event in events:
        if event.name == "SHUTDOWN":
            break  # QEMU pauses at power-off, too
        if event.name == "RESTRICTED_MEMORY_STOPPED" and plan.spec.gdb is None:
            return stopped_by(read_stop(event.data), plan)
        if event.name == "BLOCK_IO_ERROR" and event.data.get("action") == "stop":
            return disk_failed(event.data)
    return await _forever()


def disk_failed(data: Mapping[str, Any]) -> Ending:
    """Return what QEMU's BLOCK_IO_ERROR means: it has stopped the guest, which would wait for ever."""
    disk = str(data.get("device") or data.get("node-name") or "a disk")
    verb = "read" if data.get("operation") == "read" else "written"
    full = "free some space where the run folder is" if data.get("nospace") else None
    reason = data.get("reason") or "no reason was given"
    return Ending(disk_error=f"the guest's disk {disk} could not be {verb}: {reason}", hint=full)


def stopped_by(stop: Stop, plan: Plan) -> Ending:
    """Return what a stop by the plugin means for *plan*."""
    match stop.reason:
        case StopReason.GUEST_FAULT:
            return Ending(early_use="the guest touched a page before it had accepted it")
        case StopReason.HOST_ACCESS:
            return Ending(host_stop="the host touched private memory, which stopped the VM")
        case StopReason.MISUSE:
            return Ending(
                misuse=f"the guest broke a rule of its interface: {stop.text}", rip=stop.pc
            )
        case StopReason.FATAL_ERROR:
            return panicked(stop.text, plan)
        case StopReason.ASKED:
            return Ending(good=f"the guest was stopped as asked: {stop.text}", is_wanted=True)
        case StopReason.TRIPLE_FAULT:
            return Ending(triple_fault=f"the guest crashed in {stop.text}", rip=stop.pc)


def with_console(ending: Ending, vm: Vm, plan: Plan) -> Ending:
    """Add to *ending* what the console shows, whatever ended the run."""
    log = vm.console.kernel_log
    if log.trouble:
        ending = replace(ending, trouble=f"the kernel reports trouble: {log.trouble[0]}")
    gave_up = ending.timeout is not None and log.refusal is not None and not _has_kernel(vm)
    if gave_up or (ending.reset is not None and not _has_left_firmware(vm)):
        ending = replace(ending, not_booted=_not_booted(vm))
    panics = [*log.survived, *([] if log.panic is None else [log.panic])]
    match plan.spec.on_panic:
        case OnPanic.END if panics and ending.panic is None:
            then = "; then a crash kernel ran" if log.panic is None else ""
            return replace(ending, panic=GuestPanic(f"{panics[0]}{then}").message)
        case OnPanic.EXPECT if panics and not ending.is_wrong:
            return panicked(panics[0], plan)
        case OnPanic.EXPECT if not ending.is_wrong and not ending.is_wanted:
            return replace(ending, guest_exit=None, marker_missing="the guest did not panic")
        case _:
            return ending


async def _forever() -> Ending:
    await asyncio.Event().wait()
    raise InvariantError("an event that nobody sets was set")
