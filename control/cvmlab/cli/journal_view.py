# SPDX-License-Identifier: GPL-2.0-or-later
"""Print a journal, once or as it grows."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from cvmlab.base.choices import choose
from cvmlab.base.errors import CvmError
from cvmlab.base.safe_text import safe
from cvmlab.cli.session import run
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.records import EVENT_WORDS, NO_DEVICE, describe, is_event
from cvmlab.publish.telemetry import event_values
from cvmlab.report.recording import read_names
from cvmlab.results.result import from_json
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.attached import AttachedVm, attach


_INTERVAL_S = 0.2

# Says a record, by the names of devices and of functions.
Say = Callable[[np.void, Mapping[int, str], str | None], str]


def show(folder: Path, *, kinds: Sequence[str], follow: bool, as_json: bool) -> None:
    """Print the records of *kinds* (all if none) from ``events.bin`` in *folder*."""
    wanted = [choose("--kind", word, EVENT_WORDS) for word in kinds]
    say = _json_line if as_json else _line
    run(_show(folder, wanted or EVENT_WORDS, say, follow=follow))


async def _show(folder: Path, kinds: Sequence[str], say: Say, *, follow: bool) -> None:
    async with AsyncExitStack() as stack:
        names = _Known(await _attach(stack, folder), folder)
        position = 0
        while True:
            # Asked before reading, so that everything a VM wrote before it ended is printed.
            alive = follow and _alive(folder)
            journal = JournalFile(folder / "events.bin")
            journal.require_sense()
            records = journal.records
            fresh = records[position:]
            for record in fresh[is_event(fresh, *kinds)]:
                line = say(record, await names.for_record(record), names.function(record))
                sys.stdout.write(safe(line) + "\n")
            sys.stdout.flush()
            position = len(records)
            if not alive:
                _tell_what_is_missing(names.dropped())
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


class _Known:
    """What is known of a run beside its journal: from the VM while it runs, then from its folder."""

    def __init__(self, vm: AttachedVm | None, folder: Path) -> None:
        self._vm = vm
        self._folder = folder
        names = read_names(folder)
        self._devices = dict(names.devices)
        self._functions: Mapping[int, str] = names.functions
        self._callers = names.callers

    def function(self, record: np.void) -> str | None:
        """Return the function to blame for *record*, as a report does: not the leaf."""
        leaf = self._functions.get(int(record["rip"]))
        return self._callers.blamed(int(record["stack"]), leaf)

    async def for_record(self, record: np.void) -> Mapping[int, str]:
        """Return devices' names by their number; asked for again when a new number appears."""
        device = int(record["device"])
        if device != NO_DEVICE and device not in self._devices and self._vm is not None:
            try:
                self._devices |= (await self._vm.query()).devices
            except CvmError:  # the VM has ended; numbers will do
                self._vm = None
        return self._devices

    def dropped(self) -> int:
        """Return how many events are not in the journal."""
        if self._vm is not None:
            return self._vm.pages.counters()["events_dropped"]
        try:
            result = from_json((self._folder / "result.json").read_bytes())
        except (OSError, CvmError):
            return 0
        return result.counters.events_dropped


def _tell_what_is_missing(dropped: int) -> None:
    if dropped:
        sys.stdout.flush()
        sys.stderr.write(f"cvmlab: {dropped} events were dropped and are not in this list\n")


def _line(record: np.void, devices: Mapping[int, str], function: str | None) -> str:
    return describe(record, devices, function)


def _json_line(record: np.void, devices: Mapping[int, str], function: str | None) -> str:
    values = event_values(record, devices)
    return json.dumps(values if function is None else values | {"function": function})
