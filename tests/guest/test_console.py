# SPDX-License-Identifier: GPL-2.0-or-later
"""A person at the guest's console: log in, run something, power off; or leave."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.guest.program import qemu_is_gone, wait_for_run


pytestmark = pytest.mark.guest

_DEADLINE_S = 480.0  # of a whole test
_SHOWN = 2000
# A shell that edits lines asks where the cursor is, and takes for the answer what comes before it.
_ASKED, _ANSWER = "\x1b[6n", b"\x1b[1;1R"
_BUSYBOX = re.escape(_ASKED)  # after its prompt


class Terminal:
    """A terminal with ``cvmlab boot --console`` on it; it answers what terminals are asked."""

    def __init__(self, *words: str) -> None:
        self._end = time.monotonic() + _DEADLINE_S
        self._ours, self._theirs = pty.openpty()
        self.before = self.settings
        self._all = ""
        self._position = 0  # what is before it has been waited for
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cvmlab", "boot", "--console", *words],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
        )

    @property
    def settings(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def wait_for(self, pattern: str) -> None:
        """Wait until *pattern* comes after that which was waited for last."""
        wanted = re.compile(pattern)
        while (match := wanted.search(self._all, self._position)) is None:
            if not self._read(pattern):
                assert self.process.poll() is None, f"it ended; no {pattern}: {self._last}"
        self._position = match.end()

    def wait_for_end(self) -> int:
        """Return the exit code of the program."""
        while self.process.poll() is None:
            self._read("the end of the program")
        return self.process.returncode

    def type(self, text: str) -> None:
        """Type *text*; the Enter key is a carriage return."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def _last(self) -> str:
        return f"the screen's end:\n{self._all[-_SHOWN:]}"

    def _read(self, awaited: str) -> bool:
        """Read what there is within a second, and tell whether there was anything."""
        assert time.monotonic() < self._end, f"waited too long for {awaited}; {self._last}"
        if not select.select([self._ours], [], [], 1.0)[0]:
            return False
        known = self._all.count(_ASKED)
        self._all += os.read(self._ours, 65536).decode(errors="replace")
        os.write(self._ours, _ANSWER * (self._all.count(_ASKED) - known))
        return True


@contextmanager
def _terminal(*words: str) -> Iterator[Terminal]:
    terminal = Terminal(*words)
    try:
        yield terminal
    finally:
        terminal.close()


def test_root_logs_in_over_the_serial_line_and_powers_off() -> None:
    with _terminal("debian-disk", "--on-host-access", "share") as terminal:
        terminal.wait_for(" login: ")
        terminal.type("root\r")
        terminal.wait_for("Password: ")
        terminal.type("cvmlab\r")
        terminal.wait_for("root@cvmlab:~# ")
        terminal.type("echo it is $((6 * 7))\r")
        terminal.wait_for("it is 42")
        terminal.wait_for("root@cvmlab:~# ")
        terminal.type("poweroff -f\r")
        terminal.wait_for("the guest booted and powered off")
        assert terminal.wait_for_end() == 0
        assert terminal.settings == terminal.before


def test_an_image_of_ours_gives_a_shell_and_a_key_leaves_it() -> None:
    with _terminal("debian", "--coco", "off", "--name", "attended") as terminal:
        terminal.wait_for(_BUSYBOX)
        assert terminal.settings != terminal.before
        # What says that it begins is the job itself, so the key finds it in the foreground.
        terminal.type("sh -c 'echo be\"\"gins; exec cat'\r")
        terminal.wait_for("begins")
        terminal.type("\x03")  # the guest's: it ends cat, not us
        terminal.wait_for(_BUSYBOX)
        terminal.type("echo it is $((6 * 7))\r")
        terminal.wait_for("it is 42")
        run = wait_for_run("attended")
        terminal.type("\x1d")
        terminal.wait_for("stopped on request")
        assert terminal.wait_for_end() == 0
        assert terminal.settings == terminal.before
        assert qemu_is_gone(run)
