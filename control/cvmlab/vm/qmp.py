# SPDX-License-Identifier: GPL-2.0-or-later
"""The only module that knows qemu.qmp.

It turns the library's exceptions into ours, logs every message, keeps the order that QEMU's
shutdown requires, and refuses a QEMU without the plugin.  qemu.qmp's ``disconnect()`` may raise the
reader's EOFError if QEMU closed the connection first; only this module has to know that.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message
from qemu.qmp.protocol import StateError

from cvmlab.base.channel import Subscription, Topic
from cvmlab.base.errors import (
    CommandRefused,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    PluginError,
    VmExited,
)


DEFAULT_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 2.0
_LOG_LIMIT = 4096
_BACKEND_TYPE = "memory-backend-restricted"
_BUILD_HINT = "run `cvmlab build`, and use that QEMU"
_COMMANDS: Final = frozenset(
    {
        "query-restricted-memory",
        "query-restricted-memory-ranges",
        "restricted-memory-convert",
        "restricted-memory-accept",
        "restricted-memory-discard",
        "restricted-memory-poison",
        "restricted-memory-set-policy",
        "restricted-memory-invalidate",
    }
)


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """An event of QEMU; ``time_s`` is the host's wall clock in seconds."""

    name: str
    data: Mapping[str, Any]
    time_s: float


# The library also logs the errors that we raise; without a handler Python would print them.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class _Client(QMPClient):
    """QMPClient with our logging, and without its event history, which grows without limit."""

    def __init__(
        self,
        log: Callable[[str, Message], None],
        event: Callable[[Message], None],
        closed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._log_message = log
        self._event = event
        self._closed = closed

    # The library's versions of these two format every message, even if it is not logged.
    # (typing.override needs Python 3.12, so mypy gets comments instead.)
    def _cb_outbound(self, msg: Message) -> Message:  # type: ignore[explicit-override]
        self._log_message("sent", msg)
        return msg

    # The library's version leaves the message to a task of its own, which costs a turn of the event
    # loop; and QEMU works while we log.
    async def _issue(self, msg: Message) -> str | None:  # type: ignore[explicit-override]
        identity = str(msg["id"])
        data = bytes(msg)
        self._pending[identity] = asyncio.Queue(maxsize=1)
        if self._writer is not None:  # RUNNING, so it is; that it broke, the reader notices
            self._writer.write(data)
        self._log_message("sent", msg)
        return identity

    def _cb_inbound(self, msg: Message) -> Message:  # type: ignore[explicit-override]
        self._log_message("received", msg)
        return msg

    async def _on_message(self, msg: Message) -> None:  # type: ignore[explicit-override]
        if "event" in msg:
            self._event(msg)
        else:
            await super()._on_message(msg)

    async def _bh_disconnect(self) -> None:  # type: ignore[explicit-override]
        try:
            await super()._bh_disconnect()
        finally:
            self._closed()


@final
class Qmp:
    """A running QMP session.  Use connect().

    After end() only execute_last() sends anything.
    """

    def __init__(self, log_path: Path | None = None) -> None:
        self._log_file = None if log_path is None else log_path.open("ab", buffering=0)
        self._topic: Topic[QmpEvent] = Topic()
        self._client = _Client(self._log, self._on_event, self._topic.close)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: str | None = None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        peer: socket.socket | Path,
        *,
        log_path: Path | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator["Qmp"]:
        """Negotiate over a connected socket (taken over) or a Unix socket path.

        Leaving the block closes the connection and never raises because QEMU closed it first.
        """
        sock = peer if isinstance(peer, socket.socket) else _unix_socket(peer)
        with contextlib.closing(sock):
            self = cls(log_path)
            try:
                await self._start(sock, timeout_s)
                yield self
            finally:
                try:
                    await self._close(sock)
                finally:
                    self._close_log()

    async def _start(self, sock: socket.socket, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._client.connect(sock)
        except TimeoutError as error:
            raise DeadlineExceeded("QEMU's QMP greeting", timeout_s) from error
        except ConnectError as error:
            if isinstance(error.exc, EOFError | OSError):
                raise VmExited("QEMU closed the QMP connection while it started") from error
            raise PluginError(
                f"the program at the QMP socket is not QEMU: {error}", hint=_BUILD_HINT
            ) from error

    def _close_log(self) -> None:
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None

    async def _close(self, sock: socket.socket) -> None:
        self._topic.close()
        # Without this, a peer that does not read would block the library's disconnect() for ever.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(EOFError, OSError, QMPError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._client.disconnect()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Run *command* and return QEMU's answer.

        Raises CommandRefused (nothing changed), OutcomeUnknown (the connection ended first),
        DeadlineExceeded (may still take effect), VmExited (it was not sent).
        """
        if self._ended is not None:
            raise VmExited(f"{command} was not sent: {self._ended}")
        return await self._execute(command, arguments, timeout_s)

    async def _execute(
        self, command: str, arguments: Mapping[str, object] | None, timeout_s: float
    ) -> Any:
        self._in_flight += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.execute(command, arguments)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"QEMU to answer {command}", timeout_s, hint="it may still take effect"
            ) from error
        except ExecuteError as error:
            refused = CommandRefused(command, str(error), error.error_class)
            if error.error_class == "CommandNotFound":
                refused.hint = "query-commands lists the commands of this QEMU"
            raise refused from error
        except ExecInterruptedError as error:
            raise OutcomeUnknown(command) from error
        except StateError as error:
            raise VmExited(f"{command} was not sent: the connection to QEMU is closed") from error
        except QMPError as error:
            raise PluginError(f"QEMU's answer to {command} makes no sense: {error}") from error
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def end(self, reason: str, *, timeout_s: float) -> None:
        """Refuse new commands, and wait for the answers to those that were sent."""
        self._ended = reason
        with contextlib.suppress(DeadlineExceeded):
            await self.wait_idle(timeout_s=timeout_s)

    async def wait_idle(self, *, timeout_s: float) -> None:
        """Wait for the answers to all commands that were sent; raise DeadlineExceeded."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError as error:
            raise DeadlineExceeded("QEMU to answer earlier commands", timeout_s) from error

    async def execute_last(self, command: str, *, timeout_s: float) -> Any:
        """Run a command after end(); return None if there was no answer."""
        with contextlib.suppress(VmExited, DeadlineExceeded, CommandRefused, PluginError):
            return await self._execute(command, None, timeout_s)
        return None

    async def quit(self, *, timeout_s: float) -> None:
        """Tell QEMU to exit, as the last command; return even without an answer."""
        await self.end("QEMU was told to quit", timeout_s=timeout_s)
        await self.execute_last("quit", timeout_s=timeout_s)

    def events(self, limit: int = 1024) -> Subscription[QmpEvent]:
        """Return an iterator over events from now on until the connection ends.

        Use it in a ``with`` block.
        """
        return self._topic.subscribe(limit)

    async def wait_closed(self) -> None:
        """Return when either side has closed the connection."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def version(self) -> str:
        """Return QEMU's version, such as ``10.0.13``."""
        qemu = (await self.execute("query-version"))["qemu"]
        return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"

    async def require_plugin(self) -> str:
        """Return QEMU's version; raise PluginError if it has no restricted memory."""
        version = await self.version()
        commands = {entry["name"] for entry in await self.execute("query-commands")}
        types = await self.execute("qom-list-types", {"implements": "memory-backend"})
        missing = sorted(_COMMANDS - commands)
        if _BACKEND_TYPE not in {entry["name"] for entry in types}:
            missing.insert(0, _BACKEND_TYPE)
        if missing:
            raise PluginError(
                f"this QEMU ({version}) lacks the restricted-memory plugin: no {missing[0]}",
                hint=_BUILD_HINT,
            )
        return version

    def _on_event(self, message: Message) -> None:
        stamp: Any = message.get("timestamp", {})
        time_s = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        data: Any = message.get("data", {})
        self._topic.publish(QmpEvent(str(message["event"]), data, time_s))

    def _log(self, direction: str, message: Message) -> None:
        if self._log_file is None:
            return
        raw = bytes(message).strip()
        if len(raw) > _LOG_LIMIT:
            text = raw[:_LOG_LIMIT].decode(errors="replace")
            raw = json.dumps({"bytes": len(raw), "beginning": text}).encode()
        # A full disk must not stop the VM here; the journal reports it.
        with contextlib.suppress(OSError):
            self._log_file.write(
                b'{"time":%.6f,"%s":%s}\n' % (time.time(), direction.encode(), raw)
            )


def plugin_fault(log: Sequence[str]) -> PluginError | None:
    """Return an error if QEMU's log says that it lacks the plugin, so that it never started QMP."""
    for line in log:
        if _BACKEND_TYPE in line and ("does not accept value" in line or "invalid" in line):
            return PluginError("this QEMU lacks the restricted-memory plugin", hint=_BUILD_HINT)
    return None


def _unix_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"nothing answers on {path}: {error.strerror}",
            hint="`cvmlab ps` lists the VMs that run",
        ) from error
    return sock
