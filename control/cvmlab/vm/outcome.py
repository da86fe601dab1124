# SPDX-License-Identifier: GPL-2.0-or-later
"""How a VM ended."""

from dataclasses import dataclass
from enum import StrEnum

from cvmlab.listening.agent import MAX_PASSED_STATUS
from cvmlab.vm.operations import Stop


class End(StrEnum):
    """The kinds of end."""

    POWERED_OFF = "powered-off"
    REBOOTED = "rebooted"  # with reboots not allowed
    TRIPLE_FAULTED = "triple-faulted"
    PANICKED = "panicked"
    STOPPED = "stopped"  # on request of the host
    DIED = "died"  # QEMU exited by itself


@dataclass(frozen=True, slots=True)
class VmOutcome:
    """``qemu_status`` is QEMU's own exit status, negative for a signal.

    ``guest_status`` is the status that the agent reported, or None; ``detail`` is one line for
    people: the panic, or how QEMU ended.  ``stop`` is why the plugin says that the guest ended.
    ``problem`` says why the guest's command could not run.
    """

    end: End
    detail: str
    qemu_status: int
    guest_status: int | None = None
    stop: Stop | None = None
    problem: str | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the command line (see errors.py), if only the end of the VM decides it."""
        match self.end:
            case End.PANICKED | End.TRIPLE_FAULTED:
                return 255
            case End.DIED:
                return 84
            case End.STOPPED:
                return 0
            case End.POWERED_OFF:
                return min(self.guest_status or 0, MAX_PASSED_STATUS)
            case End.REBOOTED:
                # Only the agent's status makes it a success.
                status = self.guest_status
                return 83 if status is None else min(status, MAX_PASSED_STATUS)

    @property
    def failed(self) -> bool:
        return self.exit_code != 0


def shutdown_end(reason: str) -> End:
    """Return the kind of end that a SHUTDOWN event with *reason* stands for."""
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
