# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: N818 - Refusal and Oops say what happened; a suffix would add nothing
"""Refused calls: an ``OSError`` that names the broken rule."""

import errno
from typing import Final


_KERNEL_ONLY: Final = {"ENOTSUPP": 524, "EHWPOISON": 133}


def errno_value(name: str) -> int:
    """Return the number of an errno, including those that only the kernel uses inside."""
    if name in _KERNEL_ONLY:
        return _KERNEL_ONLY[name]
    value = getattr(errno, name)
    if not isinstance(value, int):
        raise TypeError(f"{name} is not an errno")
    return value


class Refusal(OSError):
    """A call was refused and, unless the entry says otherwise, changed nothing.

    ``rule`` is the name of the check that failed, ``entry`` its number in the catalogue of
    behaviours, ``error_offset`` the byte offset an ioctl reports back (None if it has no such field).
    """

    def __init__(
        self,
        number: int,
        sentence: str,
        *,
        rule: str,
        entry: str,
        error_offset: int | None = None,
    ) -> None:
        super().__init__(number, f"{sentence} (rule {rule}, {entry})")
        self.rule = rule
        self.entry = entry
        self.error_offset = error_offset


class Oops(RuntimeError):
    """The posted code would crash the kernel here; this happens only with a quirk on."""

    def __init__(self, sentence: str, *, quirk: str) -> None:
        super().__init__(f"{sentence} (quirk {quirk})")
        self.quirk = quirk
