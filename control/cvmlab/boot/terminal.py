# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's console on the user's terminal: what is typed goes to the guest, byte by byte.

Ctrl-] leaves, and so does Ctrl-a x; Ctrl-a twice is one Ctrl-a.  Without a terminal, what stands in
the pipe or file is typed, and its end changes nothing.
"""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import final

from cvmlab.vm.vm import Vm


LEAVE = b"\x1d"
_PREFIX = b"\x01"
_CHUNK = 4096
# What the guest began may not swallow the report: end a sequence and a control string, then DECSTR.
_RESET = b"\x18\x1b\\\x1b[!p"


@dataclass(slots=True)
class Keys:
    """What typed bytes mean; it remembers a Ctrl-a between two calls."""

    has_left: bool = False
    _in_prefix: bool = False

    def take(self, typed: bytes) -> bytes:
        """Return what is for the guest; after a key that leaves there is nothing more."""
        out = bytearray()
        for byte in (typed[at : at + 1] for at in range(len(typed))):
            if byte == LEAVE or (self._in_prefix and byte in (b"x", b"X")):
                self.has_left = True
                break
            if byte == _PREFIX and not self._in_prefix:
                self._in_prefix = True
                continue
            if self._in_prefix and byte != _PREFIX:
                out += _PREFIX  # it was meant for the guest
            self._in_prefix = False
            out += byte
        return bytes(out)


async def attend(vm: Vm) -> None:
    """Connect standard input and output to the console of *vm*; end the VM when the user leaves."""
    sys.stdout.flush()
    sys.stderr.write("connected to the guest console; Ctrl-] ends the VM\n")
    sys.stderr.flush()
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    keys = Keys()
    typed = Typed(source)
    with _raw(source):
        _write(sink, vm.console.text.encode())
        vm.console.mirror = lambda data: _write(sink, data)
        try:
            with suppress(ConnectionError):  # the VM has ended
                while not keys.has_left and (data := await typed.get()):
                    await vm.console.send(keys.take(data))
            if keys.has_left:
                await vm.stop()
            await asyncio.Event().wait()  # for the end of the VM, which ends this
        finally:
            vm.console.mirror = None
            if os.isatty(sink):
                _write(sink, _RESET)


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Have a terminal pass every key on, Ctrl-C among them, and be as it was at the end."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@final
class Typed:
    """What is typed on a descriptor, read when it is asked for: what nobody takes stays with the sender.

    The descriptor blocks, as the shell that has it as well wants it to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def get(self) -> bytes:
        """Return the next piece; an empty one is the end."""
        await self._readable()
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:
            return b""  # the terminal is gone

    async def _readable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(self._descriptor, ready.set)
        except PermissionError:  # a file is always ready
            await asyncio.sleep(0)
            return
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)


def _write(descriptor: int, data: bytes) -> None:
    with suppress(OSError):  # the terminal is gone; the console's log has it all
        while data:
            data = data[os.write(descriptor, data) :]
