# SPDX-License-Identifier: GPL-2.0-or-later
"""Print a journal, once or as it grows."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from cvmlab.attached import AttachedVm, attach
from cvmlab.choices import choose
from cvmlab.cli.session import run
from cvmlab.errors import CvmError
from cvmlab.journal import JournalFile
from cvmlab.records import NO_DEVICE, Kind, describe
from cvmlab.rundir import load_run
from cvmlab.telemetry import event_values


_INTERVAL_S = 0.2

Say = Callable[[np.void, Mapping[int, str]], str]


def show(folder: Path, *, kinds: Sequence[str], follow: bool, as_json: bool) -> None:
    """Print the records of *kinds* (all if none) from ``events.bin`` in *folder*."""
    known = [kind.word for kind in Kind if kind is not Kind.NONE]
    wanted = {Kind.of(choose("--kind", word, known)) for word in kinds}
    say = _json_line if as_json else describe
    run(_show(folder, wanted or set(Kind), say, follow=follow))


async def _show(folder: Path, kinds: set[Kind], say: Say, *, follow: bool) -> None:
    async with AsyncExitStack() as stack:
        names = _Names(await _attach(stack, folder))
        position = 0
        while True:
            # Asked before reading: what a VM wrote before it ended is printed.
            alive = follow and _alive(folder)
            journal = JournalFile(folder / "events.bin")
            journal.require_sense()
            records = journal.records
            for record in records[position:]:
                if record["kind"] in kinds:
                    sys.stdout.write(say(record, await names.for_record(record)) + "\n")
            sys.stdout.flush()
            position = len(records)
            if not alive:
                return
            await asyncio.sleep(_INTERVAL_S)


def _alive(folder: Path) -> bool:
    found = load_run(folder)
    return found is not None and found.running


async def _attach(stack: AsyncExitStack, folder: Path) -> AttachedVm | None:
    if not _alive(folder):
        return None
    try:
        return await stack.enter_async_context(attach(f"{folder}/"))
    except CvmError:  # it has just ended: its journal is still there
        return None


class _Names:
    """Devices' names by their number in records; asked for again when a new number appears."""

    def __init__(self, vm: AttachedVm | None) -> None:
        self._vm = vm
        self._known: dict[int, str] = {}

    async def for_record(self, record: np.void) -> Mapping[int, str]:
        device = int(record["device"])
        if device != NO_DEVICE and device not in self._known and self._vm is not None:
            try:
                self._known |= (await self._vm.query()).devices
            except CvmError:  # the VM has ended; numbers will do
                self._vm = None
        return self._known


def _json_line(record: np.void, devices: Mapping[int, str]) -> str:
    return json.dumps(event_values(record, devices))
