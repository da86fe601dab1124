# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's console: read all the time, searched by whoever waits for something.

The log on disk is written here and not by QEMU's ``logfile=``: a character that the socket has no
room for is logged there and then sent again, and logged again.
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

from cvmlab.errors import DeadlineExceeded, GuestPanic, MarkerNotSeen


# The whole line: the text arrives in pieces, and the reason is at the line's end.
PANIC = re.compile(r"Kernel panic - not syncing[^\n]*(?=\n)")
LAST_LINES = 5
# A pattern that is not found is tried again with this much of the text before the new.
_OVERLAP = 4096
_KEEP = 1 << 20
_TAKEN_INTERVAL_S = 0.002


@final
class Console:
    """Text that arrived so far, and waits for more.

    wait_for() consumes: the next wait looks only at what follows the last match.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        log_path: Path | None = None,
    ) -> None:
        self.log_path = log_path
        self.panic: str | None = None
        self.mirror: Callable[[bytes], None] | None = None  # is given all that arrives, as it is
        self._readers = [reader]
        self._writer = writer
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._dropped = 0  # characters cut off in front of _text
        self._consumed = 0  # position, counted from the start of the run
        self._ended = False
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Read until the other side closes."""
        try:
            with self._open_log() as log:
                while self._readers:
                    await self._read(self._readers[0], log)
                    await self._may_send.wait()  # while it is held, another reader may come
                    self._readers.pop(0)
        finally:
            self._ended = True
            self._append("\n" if self._text[-1:] not in ("", "\n") else "")

    async def _read(self, reader: asyncio.StreamReader, log: FileIO) -> None:
        try:
            while data := await reader.read(65536):
                # A full disk must not stop the VM; the journal, which counts, reports it.
                with suppress(OSError):
                    log.write(data)
                if self.mirror is not None:
                    self.mirror(data)
                self._append(self._decoder.decode(data).replace("\r", ""))
        except ConnectionError:
            pass  # QEMU was killed: the same end as an orderly one

    def _open_log(self) -> FileIO:
        return (self.log_path or Path(os.devnull)).open("ab", buffering=0)

    def _append(self, text: str) -> None:
        start = max(0, len(self._text) - _OVERLAP)
        self._text += text
        if self.panic is None and (match := PANIC.search(self._text, start)):
            self.panic = match.group()
        if (excess := len(self._text) - _KEEP) > 0:
            self._text = self._text[excess:]
            self._dropped += excess
        self._changed.set()

    @property
    def text(self) -> str:
        """The last MiB of what the guest wrote, without carriage returns."""
        return self._text

    def last_lines(self, count: int = LAST_LINES) -> tuple[str, ...]:
        lines = [line for line in self._text[-_OVERLAP:].splitlines() if line.strip()]
        return tuple(lines[-count:])

    async def wait_for(
        self, pattern: str, *, fail: Sequence[str] = (), timeout_s: float
    ) -> re.Match[str]:
        """Return the first match of *pattern* after the last match returned.

        Raise GuestPanic if the guest panics first, MarkerNotSeen if one of *fail* comes first or
        the console ends, DeadlineExceeded after *timeout_s*.  A match longer than 4096 characters
        may be missed.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        failures = [PANIC, *(re.compile(item, re.MULTILINE) for item in fail)]
        try:
            async with asyncio.timeout(timeout_s):
                return await self._search(wanted, failures)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{pattern!r} on the console", timeout_s, last_lines=self.last_lines()
            ) from error

    async def _search(
        self, wanted: re.Pattern[str], failures: Sequence[re.Pattern[str]]
    ) -> re.Match[str]:
        position = self._consumed
        while True:
            start = max(0, position - self._dropped)
            match = wanted.search(self._text, start)
            self._raise_if_first(wanted, failures, start, match)
            if match is not None:
                self._consumed = max(self._consumed, self._dropped + match.end())
                return match
            if self._ended:
                raise MarkerNotSeen(
                    wanted.pattern, "the console ended", last_lines=self.last_lines()
                )
            position = max(position, self._dropped + len(self._text) - _OVERLAP)
            await self._more()

    async def _more(self) -> None:
        self._changed.clear()
        await self._changed.wait()

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
            if failure is PANIC:
                raise GuestPanic(found.group(), last_lines=self.last_lines())
            raise MarkerNotSeen(
                wanted.pattern, f"it said {found.group()!r}", last_lines=self.last_lines()
            )

    async def send(self, text: str | bytes) -> None:
        """Type *text*; ends of line are the caller's."""
        await self._may_send.wait()
        self._writer.write(text.encode() if isinstance(text, str) else text)
        await self._writer.drain()

    async def hold(self, *, timeout_s: float) -> None:
        """Let senders wait until release(), and return when QEMU has taken all that was sent.

        Raise DeadlineExceeded if the guest does not take it.
        """
        self._may_send.clear()
        end_s = asyncio.get_running_loop().time() + timeout_s
        while self._unsent_bytes():
            if asyncio.get_running_loop().time() > end_s:
                raise DeadlineExceeded("the guest to read what was typed", timeout_s)
            await asyncio.sleep(_TAKEN_INTERVAL_S)

    def release(self) -> None:
        """Let senders go on."""
        self._may_send.set()

    def go_on_with(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read *reader* when what is read now has ended; write to *writer* from now on."""
        self._readers.append(reader)
        self._writer = writer

    def _unsent_bytes(self) -> int:
        """Return how much neither the socket nor, behind it, QEMU has taken yet."""
        transport = self._writer.transport
        waiting = transport.get_write_buffer_size()
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return waiting
        packed = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        return waiting + int.from_bytes(packed, sys.byteorder)
