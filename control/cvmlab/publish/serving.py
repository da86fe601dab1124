# SPDX-License-Identifier: GPL-2.0-or-later
"""Publish every VM that runs, as it comes and goes."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.publish.metrics import NOTHING_YET, Reading, Readings, serving
from cvmlab.publish.vm_feed import Feed
from cvmlab.runs.run_dir import FoundRun, find_runs
from cvmlab.vm.attached import AttachedVm, attach


if TYPE_CHECKING:
    from cvmlab.publish.mqtt import Broker

INTERVAL_S = 0.5
Say = Callable[[str], None]
Key = tuple[Path, float]  # a VM: its folder, and when it began, because a folder may be used again


async def serve_all(broker: "Broker | None", port: int | None, *, say: Say) -> None:
    """Serve for ever; *say* is told which VMs begin and end."""
    readings = Readings()
    with ExitStack() as stack:
        if broker is not None:
            from cvmlab.publish.mqtt import require_reachable

            await require_reachable(broker)
        if port is not None:
            bound = stack.enter_context(serving(readings, port))
            say(f"metrics on http://127.0.0.1:{bound}/metrics")
        async with asyncio.TaskGroup() as group:
            tasks: dict[Key, asyncio.Task[None]] = {}
            while True:
                running = {
                    (found.path, found.info.created_s): found
                    for found in find_runs()
                    if found.running and found.info.files is not None
                }
                for key in running.keys() - tasks.keys():
                    work = _serve_one(running[key], broker, readings, say)
                    tasks[key] = group.create_task(work)
                # Forgotten only when it has ended: a VM is served once, whatever QEMU it is in.
                tasks = {key: task for key, task in tasks.items() if key in running}
                await asyncio.sleep(INTERVAL_S)


async def _serve_one(
    found: FoundRun, broker: "Broker | None", readings: Readings, say: Say
) -> None:
    """Serve one VM until it ends; its errors are reported and do not end the others."""
    taken = found.info.name in readings.now
    name = found.path.name if taken else found.info.name
    readings.now = {**readings.now, name: NOTHING_YET}
    try:
        await _wait_for_socket(found)
        async with attach(f"{found.path}/") as vm, _published(vm, broker, name, say):
            say(f"serving {name}")
            with Feed(vm) as feed:
                while found.running:
                    readings.now = {**readings.now, name: Reading.of(feed)}
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
    from cvmlab.publish.mqtt import publishing

    return publishing(vm, broker, label=name, say=lambda text: say(f"{name}: {text}"))


async def _wait_for_socket(found: FoundRun) -> None:
    """Wait for the QMP socket: a VM is listed a moment before it answers."""
    for _ in range(100):
        if (found.path / "qmp.sock").exists():
            return
        await asyncio.sleep(0.05)
    raise ConfigError("it never opened its QMP socket")
