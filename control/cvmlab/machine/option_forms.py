# SPDX-License-Identifier: GPL-2.0-or-later
"""What rows of options have in common: usual sets of forms, and words that are imported late."""

from collections.abc import Callable, Iterable
from importlib import import_module

from cvmlab.machine.option import Form


EVERYWHERE = Form.COMMAND | Form.SPEC | Form.MATRIX | Form.MARK
# What a request says and BootSpec does not: it goes into the guest's files.
REQUEST = Form.COMMAND | Form.MATRIX | Form.MARK
AXIS = Form.COMMAND | Form.SPEC | Form.AXIS | Form.MARK
# How a boot is judged: a test asserts, and needs no budgets.
VERDICT = Form.COMMAND | Form.MATRIX
RUN = Form.COMMAND | Form.SETTING | Form.MARK
PROGRAM = Form.SPEC | Form.MARK  # for scripts and tests alone


def words(name: str, module: str = "machine.spec") -> Callable[[], Iterable[str]]:
    """Return what imports an enumeration when its words are asked for, and not before."""
    return lambda: getattr(import_module(f"cvmlab.{module}"), name)
