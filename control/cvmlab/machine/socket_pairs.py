# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket pairs between the controller and QEMU: QMP, console, agent.

QEMU inherits its ends by number, so no path has to exist and nobody else can connect first.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Wire:
    """One socket pair."""

    ours: socket.socket
    theirs: socket.socket

    @classmethod
    def make(cls, stack: ExitStack | AsyncExitStack) -> Self:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        ours.setblocking(False)
        return cls(ours, theirs)


@dataclass(frozen=True, slots=True)
class Wires:
    qmp: Wire
    console: Wire
    agent: Wire

    @classmethod
    def make(cls, stack: ExitStack | AsyncExitStack) -> Self:
        """Make all pairs; *stack* closes them."""
        return cls(Wire.make(stack), Wire.make(stack), Wire.make(stack))

    @property
    def theirs(self) -> tuple[int, int, int]:
        """Descriptors for QEMU to inherit."""
        return self.qmp.theirs.fileno(), self.console.theirs.fileno(), self.agent.theirs.fileno()

    def tighten_agent(self) -> None:
        """Let the guest's agent wait after a few bytes until they are read.

        The kernel takes the smallest buffer that it allows (SOCK_MIN_SNDBUF in include/net/sock.h),
        which each byte that QEMU writes fills with the whole of a socket buffer.
        """
        self.agent.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def let_go(self) -> None:
        """Close QEMU's ends on our side, so that we read an end of file when it exits."""
        for wire in (self.qmp, self.console, self.agent):
            wire.theirs.close()


@asynccontextmanager
async def stream(
    sock: socket.socket,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Wrap a connected socket; leaving closes it and drops unsent data."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
