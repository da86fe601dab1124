# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N818 - names such as VmExited and GuestPanic say what happened; "Error" adds nothing
"""All errors, by whose fault they are::

    CvmError                        85
    ├── ConfigError                 85   the user asked for something impossible
    ├── BuildError                  85   QEMU could not be built
    │   └── NoSourceError           85   QEMU could not be built: no archive has its source
    ├── ImageError                  85   a kernel, initrd or disk is missing or invalid
    ├── CommandRefused              85   QEMU understood a command and refused it
    ├── UpgradeFailed               85   a new QEMU did not take over a guest; the old one runs it
    ├── PluginError                 84   QEMU lacks the plugin, or its data makes no sense
    ├── VmExited                    84   QEMU is gone
    │   └── OutcomeUnknown          84   QEMU is gone, with a command in flight
    ├── DeadlineExceeded           124   something did not happen in time
    ├── MarkerNotSeen               83   the console ended without the expected text
    ├── GuestPanic                 255   the guest kernel said so
    ├── BudgetExceeded              80   more of a counted event than allowed
    ├── HostFault                   81   the host touched private memory
    ├── UseBeforeAcceptance         82   the guest touched a page before accepting it
    └── InvariantError              86   a defect of cvmlab

The number is the exit code of the command line.  Codes 0-79 belong to the guest's command.
"""

from collections.abc import Sequence

from cvmlab.base.safe_text import safe_line


class CvmError(Exception):
    """Root of all errors of this package.

    ``message`` is one sentence that says what happened, ``hint`` says what to do (or is None).
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


class NoSourceError(BuildError):
    """No archive has the source of the QEMU version that was asked for."""


class ImageError(CvmError):
    """A guest image is missing, unreadable or invalid."""


class CommandRefused(CvmError):
    """QEMU answered a command with an error and, by its contract, changed nothing."""

    def __init__(self, command: str, desc: str, error_class: str = "GenericError") -> None:
        super().__init__(f"QEMU refused {command}: {desc}")
        self.command = command
        self.desc = desc
        self.error_class = error_class


class PluginError(CvmError):
    """QEMU lacks something that cvmlab needs, or its data makes no sense."""

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
    """The connection ended before ``command`` was answered: it may have taken effect."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"the connection to QEMU ended before {command} was answered; "
            "whether it took effect is unknown"
        )
        self.command = command


class UpgradeFailed(CvmError):
    """The QEMU under a guest was not replaced; the old one runs it as before."""

    HINT = "the VM continues in its old QEMU"

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        told = "".join(f"; {reason}" for reason in reasons if reason)
        super().__init__(f"{message}{told}", hint=self.HINT)
        self.reasons = tuple(reasons)


class DeadlineExceeded(CvmError):
    """``awaited`` did not happen within ``seconds``; ``last_lines`` are the end of the console."""

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
        self.line = safe_line(line)
        super().__init__(f"the guest panicked: {self.line}")
        self.last_lines = tuple(last_lines)


class BudgetExceeded(CvmError):
    """A count is above its budget."""

    exit_code = 80


class HostFault(CvmError):
    """The host touched private memory more often than the run allowed."""

    exit_code = 81


class UseBeforeAcceptance(CvmError):
    """The guest touched a page before it had accepted it."""

    exit_code = 82


class InvariantError(CvmError):
    """A condition that always holds did not hold: a defect of cvmlab."""

    exit_code = 86
