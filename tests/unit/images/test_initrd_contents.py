# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen in a user's initrd, in any compression and after any other archive."""

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard

from cvmlab.images import cpio, initramfs
from cvmlab.images.cpio import CpioEntry
from cvmlab.images.initrd_contents import InitrdContents, look_into


pytestmark = pytest.mark.fault("U4")

MICROCODE = cpio.archive([CpioEntry.file("kernel/x86/microcode/GenuineIntel.bin", b"x" * 100)])
MERGED = (
    CpioEntry.symlink("bin", "usr/bin"),
    CpioEntry.file("usr/bin/sh", b"elf", 0o755),
    CpioEntry.file("init", b"#!/bin/sh\nmount -t proc proc /proc\n", 0o755),
)
OURS = (CpioEntry.symlink("bin/sh", "busybox"), CpioEntry.file("init", b"exec /cvmlab/agent\n"))
ORDINARY = InitrdContents(is_known=True, calls_agent=False, has_shell=True)


@pytest.mark.parametrize(
    "compress",
    [
        pytest.param(bytes, id="plain"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(lambda data: lzma.compress(data, check=lzma.CHECK_CRC32), id="xz"),
        pytest.param(zstandard.compress, id="zstd"),
        pytest.param(bz2.compress, id="bzip2"),
    ],
)
def test_an_ordinary_initrd_is_seen_through(compress: Callable[[bytes], bytes]) -> None:
    found = look_into(MICROCODE + bytes(512) + compress(cpio.archive(MERGED)))
    assert found == ORDINARY


def test_an_init_that_calls_the_agent_is_told() -> None:
    assert look_into(cpio.archive(OURS)).calls_agent
    assert look_into(gzip.compress(initramfs.build(b"busybox"))).calls_agent


def test_a_missing_shell_is_told() -> None:
    found = look_into(cpio.archive([CpioEntry.file("init", b"elf")]))
    assert found == InitrdContents(is_known=True, calls_agent=False, has_shell=False)


@pytest.mark.parametrize(
    "data", [b"", b"mine!", bytes(4096), b"\x1f\x8b\x08 cut", b"070701zz", MICROCODE[:60]]
)
def test_what_cannot_be_read_is_not_judged(data: bytes) -> None:
    assert not look_into(data).is_known or look_into(data).has_shell is False
