# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the bare-metal test guest (guest-images/bare) and drive it over its agent port."""

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable  # noqa: TC003 - an attribute of each guest
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final


SOURCE_DIR = Path(__file__).resolve().parents[2] / "guest-images" / "bare"
HELLO = "cvmlab hello bare-1"
LOOPING = "looping"
HOLDING = "holding"
LOOK_S = 0.2  # how often a wait looks for a hang_up()

# The sum command's weights and the fill command's pattern, as in memory.c.
GOLDEN = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def build(out_dir: Path) -> Path:
    """Return a bare.elf made from the current sources; made once per content of them.

    Needs make and a C compiler (CC) for x86_64. Concurrent callers may build
    twice, never see half a file.
    """
    sources = sorted(path for path in SOURCE_DIR.iterdir() if path.is_file())
    digest = hashlib.sha256(os.environ.get("CC", "").encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    final = out_dir / f"bare-{digest.hexdigest()[:16]}.elf"
    if final.exists():
        return final
    work = out_dir / f"{final.stem}.{os.getpid()}"
    command = ["make", "-s", "-C", os.fspath(SOURCE_DIR), f"O={work}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BareGuestError(f"make failed: {done.stderr.strip()}")
    (work / "bare.elf").replace(final)
    for path in work.iterdir():
        path.unlink()
    work.rmdir()
    return final


def pattern_word(gpa: int) -> int:
    """Return what `fill GPA LEN pattern` leaves in the word at *gpa*."""
    return gpa * GOLDEN & WORD


def weighted_sum(words: list[int]) -> int:
    """Return what `sum` answers for these 64-bit words."""
    return sum(word * (2 * i + 1) for i, word in enumerate(words)) & WORD


@final
class Registers:
    """The registers of a TDCALL, by name."""

    NAMES = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")

    def __init__(self, values: tuple[int, ...]) -> None:
        self.values = dict(zip(self.NAMES, values, strict=True))

    def __getattr__(self, name: str) -> int:
        return self.values[name]

    def describe(self) -> str:
        """Return them as a line, for a message."""
        return " ".join(f"{name}={value:#x}" for name, value in self.values.items())


class BareGuestError(Exception):
    """The guest answered `error`, did not answer in time, or could not be built."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The exception a command met. The last five are given for machine checks only."""

    vector: int
    error: int
    rip: int
    cr2: int
    gpa: int
    bank: int | None = None
    status: int | None = None
    addr: int | None = None
    misc: int | None = None
    mcg_status: int | None = None


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What `loop` saw: whole passes, words that read back wrong, faults, first wrong page."""

    passes: int
    errors: int
    faults: int
    first_gpa: int


@dataclass(frozen=True, slots=True)
class CountResult:
    """What the second CPU did: its steps, times the page lost its content, faults."""

    steps: int
    lost: int
    faults: int


class BareGuest:
    """Host end of the guest's agent port. Each call has a deadline of *deadline_s*."""

    def __init__(self, agent: socket.socket, *, deadline_s: float = 20.0) -> None:
        self._agent = agent
        self._deadline_s = deadline_s
        self._pending = b""
        self._is_over = False  # hang_up() was called
        # Where the guest reaches a GPA: a profile may want an address bit for it.
        self.reach: Callable[[int], int] = lambda gpa: gpa

    @property
    def port(self) -> socket.socket:
        """The agent port itself, for a guest that speaks otherwise."""
        return self._agent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._agent.close()

    def wait_hello(self) -> None:
        """Wait until the guest takes commands: after start and after a reset."""
        self._is_over = False
        line = self._line(f"the guest's greeting {HELLO!r}")
        if line != HELLO:
            raise BareGuestError(f"greeting was {line!r}")

    def run(self, name: str, *arguments: int | str) -> tuple[int, ...] | Fault:
        """Run one command; numbers go as hex. Return the values after `ok`, or the fault."""
        self.start(name, *arguments)
        return self._answer(f"{name} {arguments}")

    def send_line(self, line: str) -> tuple[int, ...] | Fault:
        """Send *line* as it is and return the answer as `run` does."""
        self._agent.sendall(line.encode() + b"\n")
        return self._answer(line)

    def start(self, name: str, *arguments: int | str) -> None:
        """Send a command without waiting for the answer: see `finish`."""
        self._is_over = False
        if name in ("read", "write") and isinstance(arguments[0], int):
            arguments = (self.reach(arguments[0]), *arguments[1:])
        words = [name, *(a if isinstance(a, str) else f"{a:#x}" for a in arguments)]
        self._agent.sendall(" ".join(words).encode() + b"\n")

    def finish(self, deadline_s: float | None = None) -> tuple[int, ...] | Fault:
        """Return the answer to the command of `start`."""
        before = self._deadline_s
        self._deadline_s = deadline_s or before
        try:
            return self._answer("the command sent before")
        finally:
            self._deadline_s = before

    def hang_up(self) -> None:
        """End a `finish` in another thread: no answer will come."""
        self._is_over = True

    def value(self, name: str, *arguments: int | str) -> int:
        """Run a command that must answer exactly one value."""
        answer = self.run(name, *arguments)
        if isinstance(answer, Fault) or len(answer) != 1:
            raise BareGuestError(f"{name} answered {answer}, expected one value")
        return answer[0]

    def done(self, name: str, *arguments: int | str) -> None:
        """Run a command that must answer a plain `ok`."""
        answer = self.run(name, *arguments)
        if answer != ():
            raise BareGuestError(f"{name} answered {answer}, expected plain ok")

    def fault(self, name: str, *arguments: int | str) -> Fault:
        """Run a command that must fault."""
        answer = self.run(name, *arguments)
        if not isinstance(answer, Fault):
            raise BareGuestError(f"{name} answered {answer}, expected a fault")
        return answer

    def tdcall(self, leaf: int, **registers: int) -> "Registers | Fault":
        """Run TDCALL with these registers, the others 0; return them all as they are after it."""
        values = [leaf, *(registers.get(name, 0) for name in Registers.NAMES[1:])]
        answer = self.run("tdcall", *values)
        return answer if isinstance(answer, Fault) else Registers(answer)

    def write_bytes(self, gpa: int, data: bytes) -> None:
        """Store *data*, a multiple of 8 bytes."""
        for at in range(0, len(data), 8):
            self.done("write", gpa + at, int.from_bytes(data[at : at + 8], "little"))

    def read_bytes(self, gpa: int, size: int) -> bytes:
        """Load *size* bytes, a multiple of 8."""
        words = [self.value("read", gpa + at) for at in range(0, size, 8)]
        return b"".join(word.to_bytes(8, "little") for word in words)

    def start_loop(self, gpa: int, pages: int) -> None:
        """Make the boot CPU write and verify *pages* pages until `stop_loop`."""
        line = f"loop {gpa:#x} {pages:#x}"
        self._agent.sendall(line.encode() + b"\n")
        answer = self._line(line)
        if answer != LOOPING:
            raise BareGuestError(f"{line}: {answer}")

    def stop_loop(self) -> LoopResult:
        """End `start_loop` and return what it saw."""
        self._agent.sendall(b"\n")
        answer = self._answer("loop")
        if isinstance(answer, Fault):
            raise BareGuestError(f"loop answered {answer}")
        # The byte that ended the loop is still in the port: an empty command.
        leftover = self._line("the answer to an empty line")
        if leftover != "error empty command":
            raise BareGuestError(f"unexpected {leftover!r} after loop")
        return LoopResult(*answer)

    def hold(self, value: int) -> None:
        """Make the boot CPU keep *value* in R12 and R13 until `release`."""
        self._agent.sendall(f"hold {value:#x}\n".encode())
        answer = self._line("hold")
        if answer != HOLDING:
            raise BareGuestError(f"hold: {answer}")

    def release(self) -> int:
        """End `hold` and return the value that the registers had."""
        self._agent.sendall(b"\n")
        answer = self._answer("hold")
        if isinstance(answer, Fault):
            raise BareGuestError(f"hold answered {answer}")
        self._line("the answer to an empty line")  # the byte that ended it is still in the port
        return answer[0]

    def start_counting(self, gpa: int) -> None:
        """Make the second CPU count in the word at *gpa* until `stop_counting`."""
        self.done("ap-loop", gpa)

    def stop_counting(self) -> CountResult:
        """End `start_counting` and return what the CPU did."""
        answer = self.run("ap-stop")
        if isinstance(answer, Fault):
            raise BareGuestError(f"ap-stop answered {answer}")
        return CountResult(*answer)

    def _answer(self, command: str) -> tuple[int, ...] | Fault:
        line = self._line(f"the answer to {command!r}")
        kind, _, rest = line.partition(" ")
        if kind == "ok":
            return tuple(int(word, 16) for word in rest.split())
        if kind == "fault":
            return Fault(*(int(word, 16) for word in rest.split()))
        raise BareGuestError(f"{command}: {line}")

    def _line(self, awaited: str) -> str:
        end = time.monotonic() + self._deadline_s
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            if self._is_over:
                raise BareGuestError(f"the guest is gone, awaited {awaited}")
            if left <= 0:
                raise BareGuestError(
                    f"no {awaited} within {self._deadline_s} s, got {self._pending!r}"
                )
            self._agent.settimeout(min(left, LOOK_S))
            try:
                data = self._agent.recv(4096)
            except TimeoutError:
                continue
            if not data:
                raise BareGuestError(f"the guest is gone, awaited {awaited}")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode("ascii", "replace").rstrip("\r")
