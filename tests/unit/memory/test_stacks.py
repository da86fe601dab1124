# SPDX-License-Identifier: GPL-2.0-or-later
"""A file of stack windows that is no such file has no windows."""

import os

from cvmlab.memory.stacks import STACKS_BYTES, Windows


def test_a_file_that_no_qemu_has_used_has_no_windows() -> None:
    fd = os.memfd_create("windows")
    try:
        os.ftruncate(fd, STACKS_BYTES)
        assert Windows.read(fd, [1, 2]).by_number == {}
    finally:
        os.close(fd)
