# SPDX-License-Identifier: GPL-2.0-or-later
"""A debugger of our own: those few packets of gdb's remote protocol that tests need."""

import socket
from pathlib import Path
from typing import Self, final

from cvmlab.memory.ranges import PAGE_SIZE


@final
class GdbRemote:
    """A session with QEMU's stub.  The guest is stopped while it lasts, and goes on after it."""

    def __init__(self, path: Path, *, deadline_s: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(deadline_s)
        self._socket.connect(str(path))
        self._pending = b""

    def __enter__(self) -> Self:
        self.ask("qSupported")
        self.ask("?")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask("D")
        finally:
            self._socket.close()

    def ask(self, packet: str) -> str:
        """Send a packet and return the answer to it."""
        self._send(packet)
        return self._receive()

    def resume(self) -> None:
        """Let the guest run until wait_stop()."""
        self._send("c")

    def wait_stop(self) -> str:
        """Return the reason why the guest has stopped, such as ``T05...`` for a breakpoint."""
        return self._receive()

    def command(self, line: str) -> str:
        """Run a monitor command and return what it printed."""
        output, answer = "", self.ask(f"qRcmd,{line.encode().hex()}")
        while answer.startswith("O") and answer != "OK":
            output += bytes.fromhex(answer[1:]).decode(errors="replace")
            answer = self._receive()
        return output

    def use_physical_addresses(self) -> None:
        """Make all addresses guest physical."""
        if self.ask("Qqemu.PhyMemMode:1") != "OK":
            raise AssertionError("the stub has no physical mode")

    def read(self, address: int, size: int) -> bytes | str:
        """Return memory, or the stub's error, such as ``E14``."""
        answer = self.ask(f"m{address:x},{size:x}")
        return answer if answer.startswith("E") and len(answer) == 3 else bytes.fromhex(answer)

    def write(self, address: int, data: bytes) -> str:
        """Write memory; return ``OK`` or an error."""
        return self.ask(f"M{address:x},{len(data):x}:{data.hex()}")

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _receive(self) -> str:
        while (packet := self._packet()) is None:
            data = self._socket.recv(PAGE_SIZE)
            if not data:
                raise ConnectionError("the gdb stub is gone")
            self._pending += data
        self._socket.sendall(b"+")
        return packet.decode("latin-1")

    def _packet(self) -> bytes | None:
        start = self._pending.find(b"$")
        end = self._pending.find(b"#", start)
        if start < 0 or end < 0 or len(self._pending) < end + 3:
            return None
        packet, self._pending = self._pending[start + 1 : end], self._pending[end + 3 :]
        return packet
