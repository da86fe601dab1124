# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's command printed: all of it in a file, its end for the result.

It also goes to the console's text and log, line by line, where everything else that the guest prints
is: a user of ``--expect`` or ``-v`` finds it there.
"""

from contextlib import suppress
from pathlib import Path
from typing import final

import msgspec

from cvmlab.base.safe_text import safe
from cvmlab.listening.console import Console


KEPT_BYTES = 64 << 10
_LONGEST_LINE = 4096


class OutputMemory(msgspec.Struct, frozen=True):
    """What a CommandOutput knows, for one that goes on."""

    kept: bytes
    line: bytes
    total_bytes: int


@final
class CommandOutput:
    """Give it to the agent as what takes the output."""

    def __init__(self, log_path: Path, console: Console) -> None:
        self._log_path = log_path
        self._console = console
        self._kept = bytearray()
        self._line = b""
        self.total_bytes = 0

    def memory(self) -> OutputMemory:
        """Return what it knows, for recall()."""
        return OutputMemory(bytes(self._kept), self._line, self.total_bytes)

    def recall(self, memory: OutputMemory) -> None:
        """Go on where another one was."""
        self._kept = bytearray(memory.kept)
        self._line, self.total_bytes = memory.line, memory.total_bytes

    def take(self, data: bytes) -> None:
        """Take more of the output."""
        self.total_bytes += len(data)
        self._kept += data
        del self._kept[:-KEPT_BYTES]
        # A full disk must not stop the VM here; the journal reports it.
        with suppress(OSError), self._log_path.open("ab", buffering=0) as log:
            log.write(data)
        whole, found, self._line = (self._line + data).rpartition(b"\n")
        if len(self._line) > _LONGEST_LINE:
            whole, self._line = whole + found + self._line, b""
        if whole or found:
            self._console.insert(whole + found)

    def finish(self) -> None:
        """Show a last line that has no end."""
        if self._line:
            self._console.insert(self._line + b"\n")
            self._line = b""

    @property
    def text(self) -> str | None:
        """The last 64 KiB, fit for a terminal; None if there was nothing."""
        if not self.total_bytes:
            return None
        before = self.total_bytes - len(self._kept)
        told = f"({before} bytes before this are left out)\n" if before else ""
        return told + safe(self._kept.decode(errors="replace"))
