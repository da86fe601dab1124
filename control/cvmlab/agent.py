# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest agent's channel: lines of text on the guest's second serial port.

The guest says ``cvmlab hello RELEASE`` when init runs, and ``cvmlab exit STATUS`` when its command
has ended.  Nothing is sent to it.  A serial port does no DMA, so this works under every policy.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import final


MAX_PASSED_STATUS = 79  # the command line passes 0-79 through
_LINE_LIMIT = 4096
_HELLO = re.compile(rb"cvmlab hello ([\x21-\x7e]+)\s*")
_EXIT = re.compile(rb"cvmlab exit ([0-9]{1,3})\s*")


@dataclass(frozen=True, slots=True)
class Hello:
    """Init runs; ``release`` is the kernel's."""

    release: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The guest's command ended with ``status`` (0-255)."""

    status: int


def parse_line(line: bytes) -> Hello | Exit | None:
    """Read one line; None for anything that is not the agent's (a kernel may log here)."""
    if match := _HELLO.fullmatch(line):
        return Hello(match.group(1).decode("ascii"))
    if (match := _EXIT.fullmatch(line)) and int(match.group(1)) <= 255:
        return Exit(int(match.group(1)))
    return None


@final
class Agent:
    """What the agent has said so far."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.release: str | None = None
        self.exit_status: int | None = None
        self._readers = [reader]
        self._rest = b""
        self._news = asyncio.Event()
        self._ended = False
        self._settled = asyncio.Event()
        self._settled.set()

    async def wait_hello(self) -> str | None:
        """Return the kernel's release when init runs, None if the channel ends before."""
        while self.release is None and not self._ended:
            self._news.clear()
            await self._news.wait()
        return self.release

    async def follow(self) -> None:
        """Read until the other side closes."""
        try:
            while self._readers:
                await self._read(self._readers[0])
                await self._settled.wait()
                self._readers.pop(0)
        finally:
            self._ended = True
            self._news.set()

    def hold(self) -> None:
        """Until settle(), the end of what is read now is not the last: go_on_with() may come."""
        self._settled.clear()

    def settle(self) -> None:
        """What is read now is the last."""
        self._settled.set()

    def go_on_with(self, reader: asyncio.StreamReader) -> None:
        """Read *reader* when what is read now has ended."""
        self._readers.append(reader)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_LINE_LIMIT):
                *lines, rest = (self._rest + data).split(b"\n")
                self._rest = rest[-_LINE_LIMIT:]
                for line in lines:
                    self._take(parse_line(line))
        except ConnectionError:
            pass  # QEMU was killed: the same end as an orderly one

    def _take(self, message: Hello | Exit | None) -> None:
        match message:
            case Hello(release):
                self.release = release
                self._news.set()
            case Exit(status):
                self.exit_status = status
            case None:
                pass
