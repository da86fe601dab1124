# SPDX-License-Identifier: GPL-2.0-or-later
"""Show how far a boot is: its phase with an estimate, or (verbose) the guest's console itself."""

import asyncio
import codecs
from collections.abc import Callable
from typing import TextIO

from cvmlab.base import progress
from cvmlab.base.progress import Style
from cvmlab.base.safe_text import SafeStream
from cvmlab.boot.plan import Plan
from cvmlab.boot.run import Watch
from cvmlab.boot.terminal import attend
from cvmlab.memory.records import Phase
from cvmlab.vm.operations import read_stop
from cvmlab.vm.vm import Vm


_INTERVAL_S = 0.2
# Seconds on two slow cores; they only matter for the estimate.
_EXPECTED = {
    Phase.LAUNCH: 0.5, Phase.FIRMWARE: 1.5, Phase.EFI_STUB: 0.5, Phase.KERNEL: 8.0, Phase.USER: 5.0,
}  # fmt: skip


def watcher(plan: Plan, style: Style, *, verbose: bool, stream: TextIO) -> Watch:
    """Return what run_plan() shall run beside the VM."""
    if plan.spec.gdb is not None and plan.until is None:
        stream.write(_waiting(plan))

    if plan.attended:
        return attend

    async def console(vm: Vm) -> None:
        await _copy_console(vm, stream)

    async def phases(vm: Vm) -> None:
        await _show_phases(vm, style, stream)

    async def until_moment(vm: Vm) -> None:
        await _announce_moment(vm, plan, stream)

    if plan.spec.gdb is not None and plan.until is not None:
        return until_moment
    return console if verbose or not plan.spec.restricted else phases


def _waiting(plan: Plan) -> str:
    address = (plan.spec.gdb or "").removeprefix("tcp:")
    return f"waiting for gdb: `cvmlab gdb {plan.setting.name}`, or target remote {address}\n"


async def _announce_moment(vm: Vm, plan: Plan, stream: TextIO) -> None:
    """Say when the guest stands still at the moment that was asked for: gdb may come then."""
    with vm.qmp_events() as events:
        async for event in events:
            if event.name == "RESTRICTED_MEMORY_STOPPED":
                stream.write(f"stopped: {read_stop(event.data).text}; {_waiting(plan)}")
                stream.flush()


async def _show_phases(vm: Vm, style: Style, stream: TextIO) -> None:
    parts = [progress.Part(phase.word, seconds) for phase, seconds in _EXPECTED.items()]
    with progress.task("boot", parts, style=style, stream=stream) as task:
        shown = None
        while True:
            phase = vm.pages.phase
            if phase is not shown:
                task.enter(phase.word)
                shown = phase
            task.tick()
            await asyncio.sleep(_INTERVAL_S)


async def _copy_console(vm: Vm, stream: TextIO) -> None:
    decoder, fit = codecs.getincrementaldecoder("utf-8")(errors="replace"), SafeStream()

    def show(data: bytes) -> None:
        stream.write(fit.take(decoder.decode(data).replace("\r", "")))
        stream.flush()

    position = 0
    try:
        while True:
            position += _copy(vm, show, position)
            await asyncio.sleep(_INTERVAL_S)
    finally:
        _copy(vm, show, position)
        stream.write(fit.finish())


def _copy(vm: Vm, show: Callable[[bytes], None], position: int) -> int:
    log = vm.run.console_log
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(position)
        fresh = file.read()
    show(fresh)
    return len(fresh)
