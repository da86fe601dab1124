# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU process: it never outlives this process, and its end leaves nothing behind.

Decision: QEMU is started through ``setpriv --pdeathsig KILL`` (util-linux, essential in Debian) and
a line of shell.  setpriv makes the kernel kill QEMU when the thread that started it dies, even by
SIGKILL; the shell then checks that the parent still exists, in case it died before setpriv took
effect; both exec, so the process id is QEMU's own.  Rejected: ``preexec_fn``, which runs Python
between fork and exec and can deadlock in a program with threads, such as a notebook; and a Python
launcher, which costs 20 ms and a Python process's memory.

Decision: subprocess.Popen with a pidfd in the event loop, not asyncio.create_subprocess_exec.  The
start is then one step that cannot be cancelled in the middle, needs no watcher thread, and works in
the event loop of any thread.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import final

from cvmlab.base.errors import ConfigError, InvariantError
from cvmlab.base.safe_text import safe
from cvmlab.runs.run_dir import ProcessId


LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16384
_KILL_TIMEOUT_S = 10.0
_VMSTAT = Path("/proc/vmstat")
_STILL_MINE = 'test "$PPID" = "$1" && shift && exec "$@"'


@final
class QemuProcess:
    """A child process in its own session.  Create it in a running event loop.

    ``status`` is None while it runs, then the exit status from the kernel, negative for a signal.
    """

    def __init__(self, argv: Sequence[str], *, pass_fds: Sequence[int], log_path: Path) -> None:
        """Start *argv*, with *pass_fds* under the same numbers and its output in *log_path*."""
        self.argv = tuple(argv)
        self.log_path = log_path
        self._oom_kills = _oom_kills()
        self.status: int | None = None
        self._exited = asyncio.Event()
        self._popen = _start(argv, pass_fds, log_path)
        self.pid = self._popen.pid
        self._loop = asyncio.get_running_loop()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._popen.kill()
            self._popen.wait()
            raise ConfigError(f"QEMU cannot be watched: {error.strerror}") from error
        self.identity = ProcessId.of(self.pid)  # a dead child exists until it is reaped
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        if self.status is None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.status = self._popen.wait()
            self._exited.set()

    async def wait(self) -> int:
        """Wait for the end; return the exit status."""
        await self._exited.wait()
        if self.status is None:
            raise InvariantError("QEMU has ended without an exit status")
        return self.status

    async def wait_for(self, timeout_s: float) -> int | None:
        """Wait for the end; return the exit status, or None if it still runs after *timeout_s*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        return None

    async def terminate(self, *, timeout_s: float) -> int:
        """Send SIGTERM, and SIGKILL after *timeout_s*; return the exit status."""
        self._signal(signal.SIGTERM)
        if (status := await self.wait_for(timeout_s)) is not None:
            return status
        return self.kill()

    def kill(self) -> int:
        """Kill it and wait for its end, without the event loop: the last resort of each cleanup.

        Block until the kernel has removed the process.
        """
        if self.status is None:
            self._signal(signal.SIGKILL)
            self._popen.wait(_KILL_TIMEOUT_S)
            self._reap()
        if self.status is None:
            raise InvariantError("QEMU has ended without an exit status")
        return self.status

    def _signal(self, number: signal.Signals) -> None:
        # It is not reaped yet, so no other process has its number; it leads its own group.
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def describe_death(self, status: int) -> str:
        """Say how QEMU died by itself: its status, and its last word or who killed it."""
        told = f"QEMU died with {describe_status(status)}"
        if status == -signal.SIGKILL:
            if _oom_kills() > self._oom_kills:
                return f"{told}: the host killed it because memory ran out"
            return f"{told}: somebody killed it, or the host because memory ran out"
        last = self.log_tail(1)
        return f"{told}: {last[0]}" if last else told

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> list[str]:
        """Return the last lines of its output."""
        return log_tail(self.log_path, lines)


def _oom_kills() -> int:
    """Return how often this machine's kernel has killed for memory, in any control group."""
    with contextlib.suppress(OSError):
        for line in _VMSTAT.read_text("ascii", "replace").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill" and number.isdecimal():
                return int(number)
    return 0


def describe_status(status: int) -> str:
    """Return ``status 1`` or ``signal 9 (SIGKILL)``."""
    if status >= 0:
        return f"status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
    return f"signal {-status} ({name})"


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """Return the last *lines* lines of a log file, fit for a terminal; [] if there is no file.

    A log has text of the guest in it: a console's has nothing else.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return safe(text).splitlines()[-lines:]


def _start(argv: Sequence[str], pass_fds: Sequence[int], log_path: Path) -> subprocess.Popen[bytes]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigError("setpriv is missing", hint="install the package util-linux")
    if shutil.which(argv[0]) is None:
        raise ConfigError(f"{argv[0]} is not a program", hint="run `cvmlab build`")
    launcher = [setpriv, "--pdeathsig", "KILL", "sh", "-c", _STILL_MINE, "sh", str(os.getpid())]
    try:
        with log_path.open("ab") as log:
            return subprocess.Popen(
                [*launcher, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(f"QEMU cannot be started: {error.strerror}: {error.filename}") from error
