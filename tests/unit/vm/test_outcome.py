# SPDX-License-Identifier: GPL-2.0-or-later
import inspect
import re

import pytest

from cvmlab.base import errors
from cvmlab.vm.outcome import End, VmOutcome, shutdown_end


@pytest.mark.parametrize(
    ("end", "guest_status", "exit_code"),
    [
        (End.POWERED_OFF, None, 0),
        (End.POWERED_OFF, 0, 0),
        (End.POWERED_OFF, 79, 79),
        (End.POWERED_OFF, 80, 79),
        (End.POWERED_OFF, 255, 79),
        (End.REBOOTED, None, 83),
        (End.REBOOTED, 0, 0),
        (End.REBOOTED, 200, 79),
        (End.TRIPLE_FAULTED, None, 255),
        (End.PANICKED, 0, 255),
        (End.STOPPED, None, 0),
        (End.DIED, 0, 84),
    ],
)
def test_exit_codes(end: End, guest_status: int | None, exit_code: int) -> None:
    outcome = VmOutcome(end, "", 0, guest_status)
    assert outcome.exit_code == exit_code
    assert outcome.failed is (exit_code != 0)


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("guest-shutdown", End.POWERED_OFF),
        ("guest-reset", End.REBOOTED),
        ("guest-panic", End.PANICKED),
        ("host-qmp-quit", End.STOPPED),
        ("host-signal", End.DIED),
        ("host-error", End.DIED),
        ("", End.DIED),
    ],
)
def test_reasons_of_qemu(reason: str, end: End) -> None:
    assert shutdown_end(reason) is end


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+)\s+(\d+)  ", f"{errors.__doc__}".replace("\n", "  \n")))
    defined = {
        name: str(kind.exit_code)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.CvmError)
    }
    assert drawn == defined
