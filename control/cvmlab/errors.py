# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N818 - VmExited and GuestPanic say what happened; a suffix would add nothing
"""What can go wrong, told apart by whose fault it is::

    CvmError                        85
    ├── ConfigError                 85   the user asked for something that cannot be
    ├── BuildError                  85   QEMU could not be built
    ├── ImageError                  85   a kernel, initrd or disk is not what it should be
    ├── CommandRefused              85   QEMU understood a command and refused it
    ├── UpgradeFailed               85   a new QEMU did not take over a guest, the old one goes on
    ├── PluginError                 84   the peer lacks the plugin, or speaks it wrongly
    ├── VmExited                    84   QEMU is gone
    │   └── OutcomeUnknown          84   … with a command in flight
    ├── DeadlineExceeded           124   something awaited did not come in time
    ├── MarkerNotSeen               83   the console ended without what was expected
    ├── GuestPanic                 255   the guest kernel said so
    ├── BudgetExceeded              80   more conversions or acceptances than allowed
    ├── HostFault                   81   the host touched private memory
    ├── UseBeforeAcceptance         82   the guest touched a page it had not accepted
    └── InvariantError              86   a defect of cvmlab

The number is the exit code of the command line.  Codes 0-79 belong to the guest's command.
"""

from collections.abc import Sequence


class CvmError(Exception):
    """Root of all errors of this package.

    ``message`` is one sentence saying what happened, ``hint`` what to do about it (or None).
    """

    exit_code: int = 85

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CvmError):
    """A value given by the user is wrong; nothing was started."""


class BuildError(CvmError):
    """QEMU could not be built."""


class ImageError(CvmError):
    """A guest image is missing, unreadable or of the wrong kind."""


class CommandRefused(CvmError):
    """QEMU answered a command with an error and, by its contract, changed nothing."""

    def __init__(self, command: str, desc: str, error_class: str = "GenericError") -> None:
        super().__init__(f"QEMU refused {command}: {desc}")
        self.command = command
        self.desc = desc
        self.error_class = error_class


class PluginError(CvmError):
    """The other side lacks something cvmlab needs, or what it sent makes no sense."""

    exit_code = 84


class VmExited(CvmError):
    """QEMU is gone.  ``status`` is its exit status, negative for a signal, None if unknown."""

    exit_code = 84

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        log_tail: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.log_tail = tuple(log_tail)


class OutcomeUnknown(VmExited):
    """The connection ended before ``command`` was answered: done or not, nobody can tell."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"the connection to QEMU ended before {command} was answered; "
            "whether it took effect is unknown"
        )
        self.command = command


class UpgradeFailed(CvmError):
    """The QEMU under a guest was not replaced; the old one runs it as before."""

    HINT = "the VM runs on in its old QEMU"

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        told = "".join(f"; {reason}" for reason in reasons if reason)
        super().__init__(f"{message}{told}", hint=self.HINT)
        self.reasons = tuple(reasons)


class DeadlineExceeded(CvmError):
    """``awaited`` did not happen within ``seconds``; ``last_lines`` is what the console said."""

    exit_code = 124

    def __init__(
        self,
        awaited: str,
        seconds: float,
        *,
        last_lines: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        tail = f"; the last line was: {last_lines[-1]}" if last_lines else ""
        super().__init__(f"waited {seconds:g} s for {awaited}{tail}", hint=hint)
        self.awaited = awaited
        self.seconds = seconds
        self.last_lines = tuple(last_lines)


class MarkerNotSeen(CvmError):
    """The console ended, or showed a failure, before ``pattern`` was seen."""

    exit_code = 83

    def __init__(
        self,
        pattern: str,
        reason: str,
        *,
        last_lines: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(f"never saw {pattern!r} on the console: {reason}", hint=hint)
        self.pattern = pattern
        self.last_lines = tuple(last_lines)


class GuestPanic(CvmError):
    """The guest kernel panicked; ``line`` is the console line that says so."""

    exit_code = 255

    def __init__(self, line: str, *, last_lines: Sequence[str] = ()) -> None:
        super().__init__(f"the guest panicked: {line}")
        self.line = line
        self.last_lines = tuple(last_lines)


class BudgetExceeded(CvmError):
    """The guest took more of something than the run allowed."""

    exit_code = 80


class HostFault(CvmError):
    """The host touched private memory more often than the run allowed."""

    exit_code = 81


class UseBeforeAcceptance(CvmError):
    """The guest touched a page before it had accepted it."""

    exit_code = 82


class InvariantError(CvmError):
    """Something that cannot be, is: a defect of cvmlab."""

    exit_code = 86
