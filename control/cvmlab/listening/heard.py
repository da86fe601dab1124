# SPDX-License-Identifier: GPL-2.0-or-later
"""What the controller has read of a guest's output, so that another one can go on from there."""

import array
import asyncio
import fcntl
import socket
import termios
from collections.abc import Sequence

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError, DeadlineExceeded
from cvmlab.listening.agent import Agent, AgentMemory
from cvmlab.listening.command_output import CommandOutput, OutputMemory
from cvmlab.listening.console import Console, ConsoleMemory


_TURNS = 8  # of the event loop, until a reader has taken what the transport has
_INTERVAL_S = 0.001


class Heard(msgspec.Struct, frozen=True):
    """The memories of the three that listen to a guest."""

    console: ConsoleMemory
    agent: AgentMemory
    output: OutputMemory

    @classmethod
    def of(cls, console: Console, agent: Agent, output: CommandOutput) -> "Heard":
        return cls(console.memory(), agent.memory(), output.memory())

    def tell(self, console: Console, agent: Agent, output: CommandOutput) -> None:
        """Let fresh ones go on where these were."""
        console.recall(self.console)
        agent.recall(self.agent)
        output.recall(self.output)

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes, *, where: str) -> "Heard":
        """Read what encode() returned; raise ConfigError if it is something else."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except NO_DOCUMENT as error:
            raise ConfigError(
                f"{where} does not say what the guest had printed: {error}",
                hint="save the VM again",
            ) from error


async def all_is_read(sockets: Sequence[socket.socket], *, timeout_s: float) -> None:
    """Return when what a stopped guest has sent to *sockets* was read; raise DeadlineExceeded."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    while any(waiting_bytes(sock) for sock in sockets):
        if loop.time() > end_s:
            raise DeadlineExceeded("the guest's output to be read", timeout_s)
        await asyncio.sleep(_INTERVAL_S)
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def waiting_bytes(sock: socket.socket) -> int:
    """Return how much can be read from *sock*, 0 if it is closed."""
    if sock.fileno() < 0:
        return 0
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]
