# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints of a running VM: moments to which it can go back, kept in its QEMU's memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from cvmlab.base.errors import PluginError
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.vm.operations import Operations


TRAVEL_TIMEOUT_S = 60.0


class Checkpoint(msgspec.Struct, frozen=True, rename="kebab"):
    """A moment to which a VM can go back.

    ``record`` is its number in the journal, ``vtime_ns`` the guest's virtual clock; ``running`` says
    whether the guest ran, and so whether it runs after a rewind.
    """

    name: str
    record: int
    vtime_ns: int
    running: bool


@dataclass(frozen=True, slots=True)
class Rewound:
    """A VM went back to the checkpoint of journal record ``record``; ``pages`` of 4 KiB of its memory
    files had changed since and were taken back."""

    record: int
    pages: int


class TimeTravel(Operations):
    """Operations that take a whole VM back in time: CPUs, devices, memory, page states, disks.

    ``folder`` is where overlays of disks go, once the VM is started.
    """

    folder: Path

    async def checkpoint(self, name: str | None = None) -> Checkpoint:
        """Keep the VM's state; the guest stands still meanwhile.

        The first checkpoint copies the memory that the guest uses.  A later one costs what was
        written since.  Disks that the guest can write get an overlay in the run folder.

        :raise CommandRefused: a device cannot be saved, a request of the guest is being answered, or
            the name is taken; nothing has changed.
        """
        name = name or await self._free_name()
        disks = [disk async for disk in self._disks()]
        arguments = {"id": BACKEND_ID, "name": name, "disks": disks}
        reply = await self.command(
            "restricted-memory-checkpoint", arguments, timeout_s=TRAVEL_TIMEOUT_S
        )
        return _read(reply)

    async def rewind(self, to: Checkpoint | str) -> Rewound:
        """Take the VM back; later checkpoints are dropped.

        The guest runs if it ran then, even if it has panicked since.  What the host has seen stays: the
        journal goes on, console text is not taken back, and a connection of the guest's to the
        outside is as dead as after a suspend.

        :raise CommandRefused: there is no such checkpoint, or a device was plugged since.
        """
        name = to if isinstance(to, str) else to.name
        reply = await self.command(
            "restricted-memory-rewind", {"id": BACKEND_ID, "name": name}, timeout_s=TRAVEL_TIMEOUT_S
        )
        return Rewound(reply["record"], reply["pages"])

    async def drop_checkpoint(self, which: Checkpoint | str) -> None:
        """Forget a checkpoint; the guest stays as it is."""
        name = which if isinstance(which, str) else which.name
        await self.command("restricted-memory-checkpoint-drop", {"id": BACKEND_ID, "name": name})

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints, the oldest first."""
        reply = await self.command("query-restricted-memory-checkpoints", {"id": BACKEND_ID})
        return [_read(item) for item in reply]

    async def _free_name(self) -> str:
        taken = {known.name for known in await self.checkpoints()}
        return next(name for number in count(1) if (name := f"cp{number}") not in taken)

    async def _disks(self) -> AsyncIterator[dict[str, str]]:
        """Yield the disks that the guest can write, each with the overlay for what it writes."""
        for entry in await self.command("query-block"):
            if (medium := entry.get("inserted")) and not medium["ro"] and entry["device"]:
                files = (self.folder / f"{entry['device']}-{n}.qcow2" for n in count(1))
                file = next(file for file in files if not file.exists())
                yield {"device": entry["device"], "file": str(file), "overlay": file.stem}


def _read(reply: object) -> Checkpoint:
    try:
        return msgspec.convert(reply, Checkpoint)
    except msgspec.ValidationError as error:
        raise PluginError(f"the description of a checkpoint makes no sense: {error}") from error
