# SPDX-License-Identifier: GPL-2.0-or-later
"""Publish every VM that runs, as it comes and goes."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

from cvmlab.attached import AttachedVm, attach
from cvmlab.errors import ConfigError, CvmError
from cvmlab.metrics import NOTHING_YET, Reading, Readings, serving
from cvmlab.rundir import Run, find_runs


if TYPE_CHECKING:
    from pathlib import Path

    from cvmlab.mqtt import Broker

INTERVAL_S = 0.5
Say = Callable[[str], None]


async def serve_all(broker: "Broker | None", port: int | None, *, say: Say) -> None:
    """Serve for ever; *say* is told what begins and ends."""
    readings = Readings()
    with ExitStack() as stack:
        if broker is not None:
            from cvmlab.mqtt import require_reachable

            await require_reachable(broker)
        if port is not None:
            bound = stack.enter_context(serving(readings, port))
            say(f"metrics on http://127.0.0.1:{bound}/metrics")
        async with asyncio.TaskGroup() as group:
            tasks: dict[Path, asyncio.Task[None]] = {}
            while True:
                for found in find_runs():
                    if found.running and found.info.files is not None and found.path not in tasks:
                        work = _serve_one(found, broker, readings, say)
                        tasks[found.path] = group.create_task(work)
                # Forgotten only when the folder is gone: a VM is served once.
                tasks = {path: task for path, task in tasks.items() if path.exists()}
                await asyncio.sleep(INTERVAL_S)


async def _serve_one(found: Run, broker: "Broker | None", readings: Readings, say: Say) -> None:
    """Serve one VM until it ends; a VM that ends at once, or not well, ends nothing else."""
    taken = found.info.name in readings.now
    name = found.path.name if taken else found.info.name
    readings.now = {**readings.now, name: NOTHING_YET}
    try:
        await _wait_for_socket(found)
        async with attach(f"{found.path}/") as vm, _published(vm, broker, name, say):
            say(f"serving {name}")
            while found.running:
                readings.now = {**readings.now, name: Reading.of(vm)}
                await asyncio.sleep(INTERVAL_S)
    except (CvmError, OSError) as error:
        say(f"{name}: {error}")
    finally:
        readings.now = {vm: one for vm, one in readings.now.items() if vm != name}
    say(f"{name} has ended")


def _published(
    vm: AttachedVm, broker: "Broker | None", name: str, say: Say
) -> AbstractAsyncContextManager[object]:
    if broker is None:
        return nullcontext()
    from cvmlab.mqtt import publishing

    return publishing(vm, broker, label=name, say=lambda text: say(f"{name}: {text}"))


async def _wait_for_socket(found: Run) -> None:
    """A VM is listed a moment before it can be spoken to."""
    for _ in range(100):
        if (found.path / "qmp.sock").exists():
            return
        await asyncio.sleep(0.05)
    raise ConfigError("it never opened its QMP socket")
