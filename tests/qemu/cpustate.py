# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in which the host gets at CPU state, each as a function that tries it.

The guest holds a value in R12 and R13 meanwhile; a way returns all that the host got out of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cvmlab.base.errors import CommandRefused
from tests.qemu.bare_machine import BareMachine
from tests.qemu.gdbremote import GdbRemote


R12 = 12  # in gdb's order
LOGGED = 1 << 16
CODE = 0x100000  # where the guest's image is


@final
class Looker:
    """A VM whose guest holds a value, and a folder for what commands write."""

    def __init__(self, vm: BareMachine, folder: Path) -> None:
        self.vm = vm
        self.folder = folder

    async def hmp(self, line: str) -> bytes:
        """Run a command of the human monitor; return what it says."""
        text = await self.vm.qmp.execute("human-monitor-command", {"command-line": line})
        return str(text).encode()

    async def qmp(self, command: str, **arguments: object) -> bytes:
        """Run a QMP command; return its answer, or the error."""
        try:
            return str(await self.vm.qmp.execute(command, arguments)).encode()
        except CommandRefused as error:
            return str(error).encode()

    def written(self) -> bytes:
        """Return what is in the folder."""
        return b"".join(p.read_bytes() for p in sorted(self.folder.iterdir()) if p.is_file())

    async def for_a_while(self) -> None:
        """Let the guest run for a moment, or until there is a large log of it."""
        for _ in range(100):
            await asyncio.sleep(0.01)
            if any(
                path.is_file() and path.stat().st_size > LOGGED for path in self.folder.iterdir()
            ):
                return


Attempt = Callable[[Looker], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class StatePath:
    """A way in: how to try it, and whether it ends in more than one record."""

    name: str
    attempt: Attempt


def _says(line: str) -> Attempt:
    """Return the attempt to run a command of the human monitor."""

    async def attempt(look: Looker) -> bytes:
        return await look.hmp(line)

    return attempt


def _logs(items: str) -> Attempt:
    """Return the attempt to have the guest's execution logged."""

    async def attempt(look: Looker) -> bytes:
        said = await look.hmp(f"logfile {look.folder}/log")
        said += await look.hmp(f"log {items}")
        await look.for_a_while()
        await look.hmp("log none")
        return said + look.written()

    return attempt


async def _gdbserver(look: Looker) -> bytes:
    path = look.folder / "gdb"
    said = await look.hmp(f"gdbserver unix:{path},server=on,wait=off")
    if path.exists():
        with GdbRemote(path) as gdb:
            said += gdb.ask("g").encode()
            said += bytes.fromhex(gdb.ask("g"))
    return said


async def _xen_save(look: Looker) -> bytes:
    return (
        await look.qmp("xen-save-devices-state", filename=f"{look.folder}/state") + look.written()
    )


async def _memsave(look: Looker) -> bytes:
    return await look.qmp("memsave", val=CODE, size=8, filename=f"{look.folder}/taken")


async def _trace(look: Looker) -> bytes:
    return await look.qmp("trace-event-set-state", name="exec_tb", enable=True)


# The guest's value comes out of these, where it may.
SHOWING = (
    StatePath("info registers", _says("info registers")),
    StatePath("info registers -a", _says("info registers -a")),
    StatePath("print $r12", _says("print/x $r12")),
    StatePath("log cpu", _logs("cpu,exec")),
    StatePath("gdbserver", _gdbserver),
)
# These show other CPU state.
OTHERS = (
    StatePath("xp at $r12", _says("xp /1bx $r12")),
    StatePath("log int", _logs("int,pcall")),
    StatePath("info lapic", _says("info lapic")),
    StatePath("gva2gpa", _says(f"gva2gpa {CODE:#x}")),
    StatePath("info tlb", _says("info tlb")),
    StatePath("info mem", _says("info mem")),
    StatePath("x", _says(f"x /8bx {CODE:#x}")),
    StatePath("x /i", _says("x /4i $pc")),
    StatePath("memsave", _memsave),
    StatePath("mce", _says("mce 0 9 0 0 0 0")),
    StatePath("trace-event-set-state", _trace),
    StatePath("trace-event", _says("trace-event translate_block on")),
    StatePath("log trace:", _says("log trace:exec_tb")),
)
# Refused in every VM, with memory and CPU state alike.
SAVING = (StatePath("xen-save-devices-state", _xen_save),)


def forms(value: int) -> tuple[bytes, ...]:
    """Return what *value* looks like as hexadecimal and in memory of either order."""
    return (
        f"{value:016x}".encode(),
        f"{value:x}".encode(),
        value.to_bytes(8, "little"),
        value.to_bytes(8, "big"),
        value.to_bytes(8, "little").hex().encode(),
    )
