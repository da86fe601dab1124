# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a QEMU did not start, from its log: the user's input, a missing plugin, or QEMU itself."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from cvmlab.base.errors import ConfigError, CvmError, DeadlineExceeded, VmExited
from cvmlab.profiles.guest_object import GUEST_ID
from cvmlab.vm.process import QemuProcess, describe_status
from cvmlab.vm.qmp import plugin_fault


_REFUSED = 1  # QEMU's status for a command line that it does not take
_NOT_THE_REASON = ("warning: ", "info: ")
_NO_FIRMWARE = "could not load PC BIOS"
# What the user calls what QEMU names; other words are passed on as they are.
_OURS = {
    "-gdb": "--gdb", "-bios": "--firmware", "-m": "--memory", "-smp": "--cpus", "-kernel": "--kernel",
    "-initrd": "--initrd", "-drive": "--disk", "-netdev": "--net", "-fsdev": "--share",
}  # fmt: skip


async def start_failure(
    process: QemuProcess,
    timeout_s: float,
    error: VmExited | DeadlineExceeded | None = None,
) -> CvmError:
    """Return the error that best explains why QEMU did not start; *error* is its first symptom."""
    # QEMU closes its sockets shortly before it exits.
    status = await process.wait_for(0 if isinstance(error, DeadlineExceeded) else timeout_s)
    tail = process.log_tail()
    hint = f"its log is {process.log_path}"
    if status is None and error is not None:
        error.hint = hint
        return error
    if (fault := plugin_fault(tail)) is not None:
        return fault
    if status == _REFUSED and (refusal := _refusal(process.argv, tail)) is not None:
        return ConfigError(refusal, hint=hint)
    last = f": {tail[-1]}" if tail else ""
    ended = "" if status is None else f", it ended with {describe_status(status)}"
    return VmExited(
        f"QEMU did not start{ended}{last}",
        status=status,
        log_tail=tail,
        hint=hint,
    )


def _refusal(argv: Sequence[str], log: Sequence[str]) -> str | None:
    """Return the sentence for the first option that QEMU's log complains of, None if it names none."""
    for line in log:
        if _NO_FIRMWARE in line:
            return f"--firmware: QEMU {line[line.index(_NO_FIRMWARE) :]}"
        for option, told in _options(argv):
            _, found, reason = line.partition(f": {told}: ")
            if found and reason and not reason.startswith(_NOT_THE_REASON):
                return f"{option}: QEMU refuses {told}: {reason}"
    return None


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option as the user knows it, and as QEMU's messages begin."""
    for word, value in pairwise([*argv, "-"]):
        if not word.startswith("-"):
            continue
        if value.startswith("-"):
            yield word, word
        elif word == "-object" and GUEST_ID in value:
            yield "--coco-option", f"{word} {value}"
        else:
            yield _OURS.get(word, word), f"{word} {value}"
