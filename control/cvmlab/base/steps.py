# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the commands of a build, each with a deadline, with one log and an error that quotes it.

Standard library only, because bootstrap.py runs before any dependency is installed.
"""

import os
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvmlab.base.errors import BuildError


_TAIL_LINES = 12
_GRACE_S = 5.0

# Text in the last lines of the log, and the advice it leads to; the first match wins.
_ADVICE = (
    ("No space left on device", "free some disk space, or point XDG_CACHE_HOME elsewhere"),
    ("Could not allocate block", "the disk is too small for its packages: give the recipe more"),
    ("Killed signal terminated program", "memory ran out; try again with CVMLAB_JOBS=1"),
    ("Temporary failure", "the network is not reachable; try again when it is"),
    ("Could not resolve", "the network is not reachable; try again when it is"),
    ("NewConnectionError", "the network is not reachable; try again when it is"),
    ("(from versions: none)", "the package index is not reachable; see pip's own settings"),
    ("fatal error:", "a header is missing; `cvmlab doctor` names missing packages"),
)


@dataclass(slots=True)
class Steps:
    """Runs commands one after the other, each to its end, all logged to ``log``.

    ``tick`` is called every ``tick_s`` while a command prints nothing.
    """

    log: Path
    tick: Callable[[], None] = lambda: None
    tick_s: float = 1.0
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        what: str,
        deadline_s: float,
        cwd: Path | None = None,
        on_line: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Run ``argv``; raise BuildError if it fails or exceeds its deadline.

        ``what`` completes the sentence "... failed".  However this call ends, the command's
        process group has ended too.
        """
        command = [os.fspath(word) for word in argv]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        tail: deque[str] = deque(maxlen=_TAIL_LINES)

        def take(line: str) -> None:
            tail.append(line)
            on_line(line)

        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(command)}\n")
            log.flush()
            status = self._supervise(command, what, cwd, deadline_s, log.fileno(), take)
        if status != 0:
            how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
            raise self._failure(f"{what} failed ({how})", tail)

    def _supervise(
        self,
        command: list[str],
        what: str,
        cwd: Path | None,
        deadline_s: float,
        log: int,
        take: Callable[[str], None],
    ) -> int:
        end = time.monotonic() + deadline_s
        # If this process is killed, the pipe breaks and ends the command at its next line.
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError as error:
            raise BuildError(f"{what} failed: cannot run {command[0]}: {error.strerror}") from error
        try:
            if not self._pump(process, end, log, take):
                raise self._failure(f"{what} took longer than {deadline_s:g} s", ())
            return process.wait(timeout=max(end - time.monotonic(), _GRACE_S))
        except subprocess.TimeoutExpired:
            raise self._failure(f"{what} took longer than {deadline_s:g} s", ()) from None
        finally:
            _end(process)

    def _pump(
        self, process: subprocess.Popen[bytes], end: float, log: int, take: Callable[[str], None]
    ) -> bool:
        """Copy output to the log, line by line to ``take``; False if the deadline passed."""
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                if not selector.select(min(left, self.tick_s)):
                    self.tick()
                    continue
                chunk = os.read(pipe, 65536)
                if not chunk:
                    return True
                os.write(log, chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    take(line.decode(errors="replace").rstrip())
        return False

    def _failure(self, message: str, tail: Sequence[str] | deque[str]) -> BuildError:
        lines = [line for line in tail if line]
        advice = next((text for mark, text in _ADVICE if any(mark in x for x in lines)), None)
        hint = f"{advice}; " if advice else ""
        hint += f"the whole log is {self.log}"
        if lines:
            hint += ", which ends:\n" + "\n".join(f"    {line}" for line in lines)
        return BuildError(message, hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group with SIGTERM, then SIGKILL.  Do nothing if it has ended."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
