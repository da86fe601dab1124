# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's console: read continuously, searched on request.

This module writes the log on disk, because QEMU's ``logfile=`` repeats characters: QEMU logs a
character, retries it if the socket is full, and logs it again.
"""

import asyncio
import codecs
import fcntl
import os
import re
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import final

import msgspec

from cvmlab.base.errors import DeadlineExceeded, GuestPanic, MarkerNotSeen
from cvmlab.base.safe_text import safe
from cvmlab.listening.kernel_log import KernelLog, KernelLogMemory
from cvmlab.machine.spec import OnPanic


LAST_LINES = 5
# A search that found nothing is repeated with this many characters before the new text.
_OVERLAP = 4096
_KEEP = 1 << 20
_TAKEN_INTERVAL_S = 0.002


class ConsoleMemory(msgspec.Struct, frozen=True):
    """What a Console knows, for one that goes on."""

    text: str
    dropped: int
    consumed: int
    kernel_log: KernelLogMemory


@final
class Console:
    """The text that has arrived, and waits for text to come.

    wait_for() consumes: the next wait looks only at what follows the last match.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        log_path: Path | None = None,
        kernel_log: KernelLog | None = None,
    ) -> None:
        self.log_path = log_path
        self.kernel_log = kernel_log or KernelLog()
        self.mirror: Callable[[bytes], None] | None = None  # gets all bytes unchanged
        self._readers = [reader]
        self._writer = writer
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._dropped = 0  # characters removed from the front of _text
        self._consumed = 0  # position since the start of the run
        self._ended = False
        self._changed = asyncio.Event()

    def memory(self) -> ConsoleMemory:
        """Return what it knows, for recall()."""
        return ConsoleMemory(self._text, self._dropped, self._consumed, self.kernel_log.memory())

    def recall(self, memory: ConsoleMemory) -> None:
        """Go on where another one was, before follow()."""
        self._text, self._dropped = memory.text, memory.dropped
        self._consumed = memory.consumed
        self.kernel_log.recall(memory.kernel_log)
        self._changed.set()

    async def follow(self) -> None:
        """Read until the other side closes."""
        try:
            with self._open_log() as log:
                while self._readers:
                    await self._read(self._readers[0], log)
                    await self._may_send.wait()  # during hold(), another reader may be added
                    self._readers.pop(0)
        finally:
            self._ended = True
            self._append("\n" if self._text[-1:] not in ("", "\n") else "")

    async def _read(self, reader: asyncio.StreamReader, log: FileIO) -> None:
        try:
            while data := await reader.read(65536):
                # A full disk must not stop the VM here; the journal reports it.
                with suppress(OSError):
                    log.write(data)
                if self.mirror is not None:
                    self.mirror(data)
                self._append(self._decoder.decode(data).replace("\r", ""))
        except ConnectionError:
            pass  # QEMU was killed: treat it as the end of the stream

    def insert(self, data: bytes) -> None:
        """Add what the guest printed elsewhere, in whole lines."""
        with suppress(OSError), self._open_log() as log:
            log.write(data)
        if self.mirror is not None:
            self.mirror(data.replace(b"\n", b"\r\n"))
        self._append(data.decode(errors="replace").replace("\r", ""))

    def _open_log(self) -> FileIO:
        return (self.log_path or Path(os.devnull)).open("ab", buffering=0)

    def _append(self, text: str) -> None:
        self._text += text
        self.kernel_log.feed(text)
        if (excess := len(self._text) - _KEEP) > 0:
            self._text = self._text[excess:]
            self._dropped += excess
        self._changed.set()

    @property
    def text(self) -> str:
        """The last MiB of the guest's output, without carriage returns."""
        return self._text

    def last_lines(self, count: int = LAST_LINES) -> tuple[str, ...]:
        """Return the last lines that are not empty, fit for a terminal."""
        lines = [line for line in safe(self._text[-_OVERLAP:]).splitlines() if line.strip()]
        return tuple(lines[-count:])

    @property
    def has_ended(self) -> bool:
        """Whether the other side has closed: nothing more will come."""
        return self._ended

    async def wait_for(
        self,
        pattern: str,
        *,
        fail: Sequence[str] = (),
        timeout_s: float,
        on_panic: OnPanic = OnPanic.END,
    ) -> re.Match[str]:
        """Return the first match of *pattern* after the last match returned.

        Raise GuestPanic if the guest's kernel panics first, unless *on_panic* lives with it,
        MarkerNotSeen if one of *fail* comes first or the console ends, DeadlineExceeded after
        *timeout_s*.  A match longer than 4096 characters may be missed.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        failures = [re.compile(item, re.MULTILINE) for item in fail]
        panic_fails = on_panic is OnPanic.END
        try:
            async with asyncio.timeout(timeout_s):
                return await self._search(wanted, failures, panic_fails=panic_fails)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{pattern!r} on the console", timeout_s, last_lines=self.last_lines()
            ) from error

    async def _search(
        self,
        wanted: re.Pattern[str],
        failures: Sequence[re.Pattern[str]],
        *,
        panic_fails: bool,
    ) -> re.Match[str]:
        position = self._consumed
        while True:
            start = max(0, position - self._dropped)
            match = wanted.search(self._text, start)
            if panic_fails:
                self._raise_if_panicked(match)
            self._raise_if_first(wanted, failures, start, match)
            if match is not None:
                self._consumed = max(self._consumed, self._dropped + match.end())
                return match
            if self._ended:
                raise MarkerNotSeen(
                    wanted.pattern, "the console ended", last_lines=self.last_lines()
                )
            position = max(position, self._dropped + len(self._text) - _OVERLAP)
            await self.wait_for_more()

    async def wait_for_more(self) -> None:
        """Return when there is more text, or the console has ended."""
        self._changed.clear()
        await self._changed.wait()

    def _raise_if_panicked(self, match: re.Match[str] | None) -> None:
        log = self.kernel_log
        end = self._dropped + (len(self._text) if match is None else match.start())
        if log.panic is not None and self._consumed <= log.panic_at < end:
            raise GuestPanic(log.panic, last_lines=self.last_lines())

    def _raise_if_first(
        self,
        wanted: re.Pattern[str],
        failures: Sequence[re.Pattern[str]],
        start: int,
        match: re.Match[str] | None,
    ) -> None:
        end = len(self._text) if match is None else match.start()
        for failure in failures:
            found = failure.search(self._text, start)
            if found is None or found.start() >= end:
                continue
            raise MarkerNotSeen(
                wanted.pattern, f"it shows {found.group()!r}", last_lines=self.last_lines()
            )

    async def send(self, text: str | bytes) -> None:
        """Type *text*; the caller includes line ends."""
        await self._may_send.wait()
        self._writer.write(text.encode() if isinstance(text, str) else text)
        await self._writer.drain()

    async def hold(self, *, timeout_s: float) -> None:
        """Make senders wait until release(); return when QEMU has read everything sent so far.

        Raise DeadlineExceeded if it does not.
        """
        self._may_send.clear()
        end_s = asyncio.get_running_loop().time() + timeout_s
        while self._unsent_bytes():
            if asyncio.get_running_loop().time() > end_s:
                raise DeadlineExceeded("the guest to read its console input", timeout_s)
            await asyncio.sleep(_TAKEN_INTERVAL_S)

    def release(self) -> None:
        """Let senders continue."""
        self._may_send.set()

    def continue_with(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read *reader* after the present one has ended; write to *writer* from now on."""
        self._readers.append(reader)
        self._writer = writer

    def _unsent_bytes(self) -> int:
        """Return the number of bytes that QEMU has not read from the socket yet."""
        transport = self._writer.transport
        waiting = transport.get_write_buffer_size()
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return waiting
        packed = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        return waiting + int.from_bytes(packed, sys.byteorder)
