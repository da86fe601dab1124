# SPDX-License-Identifier: GPL-2.0-or-later
"""What each exit code of ``cvmlab boot`` means, in a sentence.  Pure."""

from collections.abc import Mapping
from typing import Final

from cvmlab.results.budgets import GUEST_CODES_END
from cvmlab.results.result import EXIT_CODES, Outcome


MEANINGS: Final[Mapping[Outcome, str]] = {
    Outcome.OK: "everything passed",
    Outcome.GUEST_FAILED: "the exit status of the guest command (--exec)",
    Outcome.BUDGET_EXCEEDED: "more conversions or acceptances than --max-... or --baseline allows",
    Outcome.HOST_FAULT: "the host touched private memory more often than --max-faults allows",
    Outcome.USE_BEFORE_ACCEPTANCE: "the guest used memory before it accepted it",
    Outcome.MARKER_NOT_SEEN: "the guest ended before --expect or --exec was satisfied",
    Outcome.NOT_BOOTED: "the firmware found nothing to boot",
    Outcome.GUEST_RESET: "the guest reset itself",
    Outcome.STOPPED: "the VM was stopped from outside",
    Outcome.QEMU_DIED: "QEMU died or did not start, or it lacks the plugin",
    Outcome.DISK_ERROR: "the host could not write to a disk of the guest",
    Outcome.BAD_INPUT: "bad usage or input",
    Outcome.DEFECT: "a defect of cvmlab",
    Outcome.UNAWARE: "the guest's kernel never spoke the interface of its profile",
    Outcome.MISUSE: "the guest broke the rules of that interface, and no host could go on",
    Outcome.TIMEOUT: "the boot did not end within --timeout",
    Outcome.INTERRUPTED: "Ctrl-C or SIGTERM",
    Outcome.GUEST_PANIC: "the guest kernel panicked",
    Outcome.TRIPLE_FAULT: "a guest CPU met a triple fault",
    Outcome.KERNEL_TROUBLE: "the guest kernel logged an oops or other trouble (--fail-on)",
}


def table() -> list[tuple[str, str]]:
    """Return each code, or range of codes, with its meaning, in ascending order."""
    meanings: dict[int, list[str]] = {}
    for outcome, code in EXIT_CODES.items():
        meanings.setdefault(code, []).append(MEANINGS[outcome])
    rows = [(code, str(code), "; or ".join(told)) for code, told in meanings.items()]
    rows.append((1, f"1-{GUEST_CODES_END - 1}", MEANINGS[Outcome.GUEST_FAILED]))
    return [(told, meaning) for _, told, meaning in sorted(rows)]


def sentence() -> str:
    """Return all of it in one line, for the end of a help text."""
    return "Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in table()) + "."
