# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest agent's channel: the guest's second serial port.

The guest writes ``cvmlab hello RELEASE`` when init runs, and ``cvmlab exit STATUS`` when its command
has ended.  What the command prints comes between ``cvmlab output TOKEN`` and ``cvmlab end TOKEN``, so
that no kernel message is mixed into it.  ``cvmlab problem TEXT`` says why the command cannot run, and
``cvmlab module NAME SIZE ADDRESS`` where a kernel module is.
Nothing is sent to the guest.  A serial port does no DMA, so this works under any policy.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import msgspec

from cvmlab.base.safe_text import safe_line
from cvmlab.unwind.modules import LoadedModule


MAX_PASSED_STATUS = 79  # the command line passes 0-79 through
_LINE_LIMIT = 4096
_MAX_MODULES = 1024
# Firmware that finds the port clears its screen there, and ends no line (ECMA-48, 5.4).
_CLEARED = rb"(?:\x1b\[[0-?]{0,64}[ -/]{0,64}[@-~]){0,64}"
_GREETING = rb"cvmlab hello ([\x21-\x7e]+)\s*"
_HELLO = re.compile(_CLEARED + _GREETING)
# What clears the screen before it may be a command's: no firmware runs between two kernels.
_ENDS_IN_HELLO = re.compile(_GREETING + rb"$")
_MODULE = re.compile(rb"cvmlab module ([\x21-\x7e]{1,64}) ([0-9]{1,12}) 0x([0-9a-f]{1,16})\s*")
_EXIT = re.compile(rb"cvmlab exit ([0-9]{1,3})\s*")
_PROBLEM = re.compile(rb"cvmlab problem ([^\r\n]{1,1000})\s*")
_OUTPUT = re.compile(rb"cvmlab output ([0-9a-f-]{1,64})\s*")


@dataclass(frozen=True, slots=True)
class Hello:
    """Init runs; ``release`` is the kernel's release."""

    release: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The guest's command ended with ``status`` (0-255)."""

    status: int


@dataclass(frozen=True, slots=True)
class Problem:
    """The guest's command cannot run; ``text`` says why."""

    text: str


@dataclass(frozen=True, slots=True)
class OutputBegins:
    """What follows is the command's output, until ``end``."""

    end: bytes


Message = Hello | LoadedModule | Exit | Problem | OutputBegins


class AgentMemory(msgspec.Struct, frozen=True):
    """What an Agent knows, for one that goes on."""

    release: str | None
    exit_status: int | None
    problem: str | None
    modules: list[LoadedModule]
    rest: bytes
    output_end: bytes | None
    panics_before: int


def parse_line(line: bytes) -> Message | None:
    """Read one line; return None if it is not the agent's, because a kernel may log here, too."""
    if match := _HELLO.fullmatch(line):
        return Hello(match.group(1).decode("ascii"))
    if match := _MODULE.fullmatch(line):
        name, size, address = match.groups()
        return LoadedModule(name.decode("ascii"), int(size), int(address, 16))
    if (match := _EXIT.fullmatch(line)) and int(match.group(1)) <= 255:
        return Exit(int(match.group(1)))
    if match := _PROBLEM.fullmatch(line):
        return Problem(safe_line(match.group(1).decode(errors="replace").strip()))
    if match := _OUTPUT.fullmatch(line):
        return OutputBegins(b"cvmlab end " + match.group(1))
    return None


def _without_beginning(output: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Split off what may be the beginning of *end*; the rest must not wait for more output."""
    for at in range(max(0, len(output) - len(end) + 1), len(output)):
        if end.startswith(output[at:]):
            return output[:at], output[at:]
    return output, b""


def _ignore(_output: bytes) -> None:
    pass


@final
class Agent:
    """The agent's messages so far; *on_output* gets what the command prints, as it comes."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        on_output: Callable[[bytes], None] = _ignore,
        *,
        on_hello: Callable[[], None] | None = None,
        panics: Callable[[], int] = int,
    ) -> None:
        """*on_hello* is called at each greeting: a crash kernel greets, too.

        *panics* tells how often the guest has panicked: a command that ran then never ends.
        """
        self._on_hello = on_hello
        self._panics = panics
        self._panics_before = 0  # the command began
        self.release: str | None = None
        self.exit_status: int | None = None
        self.problem: str | None = None
        self._modules: dict[str, LoadedModule] = {}
        self._readers = [reader]
        self._rest = b""
        self._output_end: bytes | None = None  # while the command's output comes
        self._on_output = on_output
        self._news = asyncio.Event()
        self._ended = False
        self._may_end = asyncio.Event()
        self._may_end.set()

    def memory(self) -> AgentMemory:
        """Return what it knows, for recall()."""
        return AgentMemory(
            self.release,
            self.exit_status,
            self.problem,
            list(self.modules),
            self._rest,
            self._output_end,
            self._panics_before,
        )

    def recall(self, memory: AgentMemory) -> None:
        """Go on where another one was, before follow()."""
        self.release, self.exit_status = memory.release, memory.exit_status
        self.problem = memory.problem
        self._modules = {module.name: module for module in memory.modules}
        self._rest, self._output_end = memory.rest, memory.output_end
        self._panics_before = memory.panics_before

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """The guest's modules where they were when it told last: before its command, or after it."""
        return tuple(self._modules.values())

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
                await self._may_end.wait()
                self._readers.pop(0)
        finally:
            if self._output_end is not None:  # the guest ended in the middle of it
                self._on_output(self._rest)
            self._ended = True
            self._news.set()

    def hold(self) -> None:
        """Do not end with the present reader until allow_end(): continue_with() may add another."""
        self._may_end.clear()

    def allow_end(self) -> None:
        """End with the present readers."""
        self._may_end.set()

    def continue_with(self, reader: asyncio.StreamReader) -> None:
        """Read *reader* after the present one has ended."""
        self._readers.append(reader)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_LINE_LIMIT):
                self._rest += data
                while self._take_some():
                    pass
        except ConnectionError:
            pass  # QEMU was killed: treat it as the end of the stream

    def _take_some(self) -> bool:
        """Take a line, or output, from what has arrived; return whether there may be more."""
        if self._output_end is not None:
            return self._take_output(self._output_end)
        line, found, rest = self._rest.partition(b"\n")
        if not found:
            self._rest = self._rest[-_LINE_LIMIT:]
            return False
        self._rest = rest
        self._take(parse_line(line))
        return True

    def _take_output(self, end: bytes) -> bool:
        if self._panics() > self._panics_before:
            return self._take_what_is_left()
        output, found, rest = self._rest.partition(end)
        if not found:
            output, rest = _without_beginning(output, end)
        self._rest = rest
        if output:
            self._on_output(output)
        if found:
            self._output_end = None
        return bool(found)

    def _take_what_is_left(self) -> bool:
        """Take a line of a command that is gone: the next greeting is a crash kernel's agent."""
        line, found, rest = self._rest.partition(b"\n")
        if not found:
            self._on_output(self._rest[:-_LINE_LIMIT])
            self._rest = self._rest[-_LINE_LIMIT:]
            return False
        hello = _ENDS_IN_HELLO.search(line)
        if hello is None:
            self._rest = rest
            self._on_output(line + found)
        else:
            self._output_end, self._rest = None, self._rest[hello.start() :]
            self._on_output(line[: hello.start()])
        return True

    def _take(self, message: Message | None) -> None:
        match message:
            case Hello(release):
                if self._on_hello is not None:
                    self._on_hello()
                self.release = release
                self._news.set()
            case LoadedModule():
                if message.name in self._modules or len(self._modules) < _MAX_MODULES:
                    self._modules[message.name] = message
            case Exit(status):
                self.exit_status = status
            case Problem(text):
                self.problem = text
            case OutputBegins(end):
                self._output_end = end
                self._panics_before = self._panics()
            case None:
                pass
