# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys that are for the guest, and keys that leave it."""

import pytest

from cvmlab.boot.terminal import Keys


@pytest.mark.parametrize(
    ("typed", "passed", "leaves"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"\x03\x04\x1b[A"], b"\x03\x04\x1b[A", False),  # Ctrl-C, Ctrl-D and keys are the guest's
        ([b"ab\x1dcd"], b"ab", True),
        ([b"ab\x01xcd"], b"ab", True),
        ([b"a\x01", b"X"], b"a", True),
        ([b"\x01\x01x"], b"\x01x", False),
        ([b"\x01", b"e"], b"\x01e", False),  # the beginning of the line, for readline
        ([b"\xc3\xa9\xff"], b"\xc3\xa9\xff", False),
    ],
)
def test_every_byte_is_the_guests_but_those_that_leave(
    typed: list[bytes], passed: bytes, leaves: bool
) -> None:
    keys = Keys()
    assert b"".join(keys.take(part) for part in typed) == passed
    assert keys.has_left is leaves
