# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen in a user's initrd, in any compression and after any other archive."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cvmlab.images import cpio, initramfs
from cvmlab.images.cpio import CpioEntry
from cvmlab.images.initrd_contents import InitrdContents, InitrdModules, look_into


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


def test_modules_are_read_out_of_an_initrd(tmp_path: Path) -> None:
    """Names are the kernel's; what is damaged is as if it were not there, and hides nothing."""
    initrd = tmp_path / "initrd"
    modules = (
        CpioEntry.file("lib/modules/6.12/virtio-rng.ko", b"elf"),
        CpioEntry.file("lib/modules/6.12/ahci.ko.xz", lzma.compress(b"other")),
        CpioEntry.file("lib/modules/6.12/bad.ko.zst", b"damaged"),
        CpioEntry.symlink("lib/modules/6.12/link.ko", "ahci.ko.xz"),
        CpioEntry.file("etc/ahci.ko.conf", b"no module"),
    )
    initrd.write_bytes(MICROCODE + gzip.compress(cpio.archive(modules)) + b"rest")
    found = InitrdModules(initrd)
    assert found.contents("virtio_rng") == b"elf"
    assert found.contents("ahci") == b"other"
    assert [found.contents(name) for name in ("bad", "link", "none")] == [None] * 3
    assert InitrdModules(tmp_path / "none").contents("ahci") is None
