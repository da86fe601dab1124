# SPDX-License-Identifier: GPL-2.0-or-later
"""What a console's lines say about the guest's health: panics, oopses, firmware that gave up.  Pure.

Programs write to the same console, so a line counts as the kernel's only with printk's time stamp
at its start.  A kernel that prints none (printk.time=0) is believed without, until a line with a
stamp or the first program appears.
"""

import re
from collections.abc import Sequence
from typing import Final, final

import msgspec

from cvmlab.base.safe_text import safe_line


# printk's stamp, after the level of console_msg_format=syslog, before the caller of
# CONFIG_PRINTK_CALLER.
_STAMP: Final = re.compile(r"(?:<\d+>)?\[ *(\d+\.\d{6})\](?:\[[^\]\n]*\])? ")
_PANIC: Final = "Kernel panic - not syncing"
_PANIC_IS_OVER: Final = "---[ end Kernel panic - not syncing"
_NEW_KERNEL: Final = "Linux version "
_KEPT = 16
_LINE_LIMIT = 2048
NO_TROUBLE: Final = "none"  # as --fail-on: the set below does not count

# The words of Linux 5.10 to 7: arch/*/kernel/dumpstack.c and traps.c, kernel/watchdog.c,
# kernel/rcu/tree_stall.h, mm/kasan/report.c, lib/ubsan.c, kernel/locking/lockdep.c,
# kernel/hung_task.c.  A plain WARNING is not here: stock kernels print some on machines that are
# well, and nothing is broken yet.
TROUBLE: Final = (
    r"^(?:Oops|Internal error): ",
    r": [0-9a-f]{4} \[#\d+\]",  # other exceptions in the kernel, with the number of the oops
    r"\bBUG: |\bkernel BUG at ",  # KASAN, KFENCE, KCSAN and soft lockups among them
    r"\bhard LOCKUP\b",
    r"\bdetected (?:expedited )?stalls?\b|\bself-detected stall\b",
    r"^UBSAN: ",
    r"^WARNING: (?:possible (?:circular|recursive|irq lock)|inconsistent lock state|bad unlock balance"
    r"|suspicious RCU usage|held lock freed|lock held |.* lock order detected)",
    r"^INFO: task .* blocked for more than \d+ seconds",
)

# What EDK2's boot manager, shim and GRUB say when a signature does not fit.
_REFUSED: Final = re.compile(
    r"BdsDxe: .*(?:Access Denied|Security Violation)"
    r"|Verification failed: \(0x1A\) Security Violation|error: .*bad shim signature"
)
# Then EDK2 waits in its menu for a key; where it has a shell, that waits for a command.
_NOTHING_TO_BOOT: Final = "BdsDxe: No bootable option or device was found"
_SHELL: Final = "Shell> "


class KernelLogMemory(msgspec.Struct, frozen=True):
    """What a KernelLog knows, for one that goes on."""

    panic: str | None
    panic_at: int
    panic_is_over: bool
    survived: list[str]
    trouble: list[str]
    refusal: str | None
    firmware_gave_up: bool
    panic_time: float
    is_stamped: bool
    programs_run: bool
    rest: str
    rest_at: int


@final
class KernelLog:
    """Feed it a console's text; ask what it has shown.

    ``panic`` is the panic that the guest has not survived (yet), ``panic_at`` where its line began,
    in characters.  ``panic_is_over``: the kernel will not do anything any more.  ``survived`` are
    panics after which a crash kernel ran.  ``trouble`` has the first lines that fail a boot.
    ``refusal`` is a line that says that a signature did not fit; firmware may then try something
    else.  ``firmware_gave_up``: it does not.
    """

    def __init__(self, fail_on: Sequence[str] = ()) -> None:
        """*fail_on* are patterns for the kernel's lines besides TROUBLE, or without it: "none"."""
        patterns = [pattern for pattern in fail_on if pattern != NO_TROUBLE]
        if NO_TROUBLE not in fail_on:
            patterns = [*TROUBLE, *patterns]
        self._trouble = [re.compile(pattern) for pattern in patterns]
        self.panic: str | None = None
        self.panic_at = 0
        self.panic_is_over = False
        self.survived: list[str] = []
        self.trouble: list[str] = []
        self.refusal: str | None = None
        self.firmware_gave_up = False
        self._panic_time = 0.0
        self._is_stamped = False  # a line with a stamp was seen
        self._programs_run = False
        self._rest = ""
        self._rest_at = 0

    def memory(self) -> KernelLogMemory:
        """Return what it knows, for recall()."""
        return KernelLogMemory(
            self.panic,
            self.panic_at,
            self.panic_is_over,
            list(self.survived),
            list(self.trouble),
            self.refusal,
            self.firmware_gave_up,
            self._panic_time,
            self._is_stamped,
            self._programs_run,
            self._rest,
            self._rest_at,
        )

    def recall(self, memory: KernelLogMemory) -> None:
        """Go on where another one was."""
        self.panic = memory.panic
        self.panic_at = memory.panic_at
        self.panic_is_over = memory.panic_is_over
        self.survived = list(memory.survived)
        self.trouble = list(memory.trouble)
        self.refusal = memory.refusal
        self.firmware_gave_up = memory.firmware_gave_up
        self._panic_time = memory.panic_time
        self._is_stamped = memory.is_stamped
        self._programs_run = memory.programs_run
        self._rest = memory.rest
        self._rest_at = memory.rest_at

    def feed(self, text: str) -> None:
        """Take more text; only complete lines are looked at."""
        *lines, rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(safe_line(line[:_LINE_LIMIT]))
            self._rest_at += len(line) + 1
        # A guest may write for ever without ending a line.
        self._rest_at += max(len(rest) - _LINE_LIMIT, 0)
        self._rest = rest[-_LINE_LIMIT:]
        if rest and not self._is_stamped and not self._programs_run:
            self.firmware_gave_up |= safe_line(self._rest).endswith(_SHELL)

    @property
    def panics(self) -> int:
        """How many kernels of this guest have panicked."""
        return len(self.survived) + (self.panic is not None)

    def hello(self) -> None:
        """A program runs in the guest: after a panic, that is one of the crash kernel."""
        self._programs_run = True
        self._survive()

    def _line(self, line: str) -> None:
        stamp = _STAMP.match(line)
        if stamp is not None:
            self._is_stamped = True
            time_s = float(stamp[1])
            if time_s < self._panic_time:
                self._survive()  # the clock began anew
            self._said(line[stamp.end() :], time_s)
        elif not self._is_stamped and not self._programs_run:
            self._firmware(line)
            self._said(line, 0.0)

    def _said(self, message: str, time_s: float) -> None:
        if message.startswith(_PANIC) and self.panic is None:
            self.panic, self.panic_at, self._panic_time = message, self._rest_at, time_s
        elif message.startswith(_PANIC_IS_OVER):
            self.panic_is_over = self.panic is not None
        elif message.startswith(_NEW_KERNEL):
            self._survive()
        if any(pattern.search(message) for pattern in self._trouble) and len(self.trouble) < _KEPT:
            self.trouble.append(message)

    def _survive(self) -> None:
        if self.panic is not None:
            self.survived.append(self.panic)
        self.panic, self.panic_is_over, self._panic_time = None, False, 0.0

    def _firmware(self, line: str) -> None:
        if _NOTHING_TO_BOOT in line:
            self.firmware_gave_up = True
        elif self.refusal is None and _REFUSED.search(line):
            self.refusal = line.strip()
