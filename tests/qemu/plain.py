# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU and QMP without cvmlab: what anybody can do with a subprocess, a socket and json."""

import json
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final


DEADLINE_S = 20.0
BACKEND = "memory-backend-restricted,id=ram0,size=64M"


@final
class PlainQmp:
    """A QMP session over a unix socket; ``events`` are all that came so far."""

    def __init__(self, path: Path, *, oob: bool = False, deadline_s: float = DEADLINE_S) -> None:
        """Connect and negotiate; waits for the socket to appear."""
        self.socket = connect(path, deadline_s)
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._number = 0
        self._deadline_s = deadline_s
        self.greeting = self.receive()
        enable = {"enable": ["oob"]} if oob else {}
        self.command("qmp_capabilities", **enable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and return its value; raise QmpRefusedError if QEMU refuses."""
        self._number += 1
        ticket = f"{id(self)}-{self._number}"
        answer = self.ask({"execute": name, "arguments": arguments, "id": ticket})
        while answer.get("id") != ticket:
            # What a client that vanished had asked for is answered to the next one.
            answer = self.answer()
        if "error" in answer:
            raise QmpRefusedError(answer["error"]["desc"])
        return answer["return"]

    def ask(self, request: object) -> dict[str, Any]:
        """Send any JSON and return the answer to it, whatever that is."""
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return self.answer()

    def ask_all(self, requests: Sequence[object]) -> list[dict[str, Any]]:
        """Send all before the first is answered; return the answers, in their order."""
        self.socket.sendall("".join(json.dumps(request) + "\n" for request in requests).encode())
        return [self.answer() for _ in requests]

    def answer(self) -> dict[str, Any]:
        """Return the next message that is no event."""
        while "event" in (message := self.receive()):
            self.events.append(message)
        return message

    def receive(self) -> dict[str, Any]:
        """Return the next message of any kind; raise ConnectionError at the end."""
        end = time.monotonic() + self._deadline_s
        while b"\n" not in self._buffer:
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("QEMU closed the QMP connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def wait_event(self, name: str) -> dict[str, Any]:
        """Return the first event *name* that was not taken yet."""
        while not (found := [e for e in self.events if e["event"] == name]):
            message = self.receive()
            assert "event" in message, message
            self.events.append(message)
        self.events.remove(found[0])
        return found[0]


class QmpRefusedError(Exception):
    """QEMU answered with an error; the message is its description."""


def connect(path: Path, deadline_s: float = DEADLINE_S) -> socket.socket:
    """Return a connection to *path*, which may not exist yet."""
    end = time.monotonic() + deadline_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > end:
                raise
            select.select([], [], [], 0.02)  # there is nothing to wait on before the file exists
        else:
            return sock


@dataclass(frozen=True, slots=True)
class PlainQemu:
    """A running QEMU: its process, where its QMP socket is, and the far end of its agent port."""

    process: subprocess.Popen[bytes]
    qmp_path: Path
    agent: socket.socket
    log: Path

    def qmp(self, *, oob: bool = False) -> PlainQmp:
        """Open a QMP session."""
        return PlainQmp(self.qmp_path, oob=oob)

    def wait(self) -> int:
        """Return the exit status; negative for a signal."""
        return self.process.wait(DEADLINE_S)


@contextmanager
def plain_qemu(
    command: Sequence[str], folder: Path, *, keep_fds: Sequence[int] = ()
) -> Iterator[PlainQemu]:
    """Start QEMU with *command* plus a QMP socket and an agent port; killed at the end."""
    with ExitStack() as stack:
        agent, far = socket.socketpair()
        stack.callback(agent.close)
        stack.callback(far.close)
        qmp, log = folder / "plain.sock", folder / "plain.log"
        qmp.unlink(missing_ok=True)
        argv = [
            "setpriv", "--pdeathsig", "KILL", *command, "-qmp", f"unix:{qmp},server=on,wait=off",
            "-chardev", f"socket,id=agent,fd={far.fileno()}",
            "-serial", "null", "-serial", "chardev:agent",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[far.fileno(), *keep_fds],
            )  # fmt: skip
        stack.callback(process.wait, DEADLINE_S)
        stack.callback(process.kill)
        far.close()
        yield PlainQemu(process, qmp, agent, log)


def machine(
    qemu: Path, rom_dirs: Sequence[Path], *, backend: str | None = BACKEND, memory: str = "64M"
) -> list[str]:
    """Return the command for a small q35 whose memory is *backend*, or plain RAM."""
    memory_backend = "" if backend is None else ",memory-backend=ram0"
    return [
        str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
        *(word for folder in rom_dirs for word in ("-L", str(folder))),
        *([] if backend is None else ["-object", backend]),
        "-machine", f"q35,smm=off,sata=off{memory_backend}", "-m", memory,
        "-cpu", "max", "-accel", "tcg,thread=multi,tb-size=64",
    ]  # fmt: skip
