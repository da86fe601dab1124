# SPDX-License-Identifier: GPL-2.0-or-later
"""How a VM ended."""

from dataclasses import dataclass
from enum import StrEnum

from cvmlab.agent import MAX_PASSED_STATUS


class End(StrEnum):
    """The kinds of end."""

    POWERED_OFF = "powered-off"
    REBOOTED = "rebooted"  # and reboots were not allowed
    PANICKED = "panicked"
    STOPPED = "stopped"  # somebody on the host asked for it
    DIED = "died"  # QEMU did


@dataclass(frozen=True, slots=True)
class Outcome:
    """``qemu_status`` is QEMU's own exit status, negative for a signal.

    ``guest_status`` is what the agent said, None if it said nothing; ``detail`` is one line for
    people: the panic, or what became of QEMU.
    """

    end: End
    detail: str
    qemu_status: int
    guest_status: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the command line (see errors.py) as far as the end alone decides it."""
        match self.end:
            case End.PANICKED:
                return 255
            case End.DIED:
                return 84
            case End.STOPPED:
                return 0
            case End.POWERED_OFF:
                return min(self.guest_status or 0, MAX_PASSED_STATUS)
            case End.REBOOTED:
                # A triple fault looks like this, so it is no success unless the agent says so.
                status = self.guest_status
                return 84 if status is None else min(status, MAX_PASSED_STATUS)

    @property
    def failed(self) -> bool:
        return self.exit_code != 0


def shutdown_end(reason: str) -> End:
    """Return what a SHUTDOWN event with *reason* means."""
    match reason:
        case "guest-shutdown":
            return End.POWERED_OFF
        case "guest-reset" | "subsystem-reset" | "host-qmp-system-reset":
            return End.REBOOTED
        case "guest-panic":
            return End.PANICKED
        case "host-qmp-quit" | "host-ui":
            return End.STOPPED
        case _:
            return End.DIED
