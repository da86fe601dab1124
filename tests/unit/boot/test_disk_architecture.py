# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk for another architecture is told by the types of its partitions."""

import struct
import time
import uuid
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.boot.disk_architecture import (
    architectures_on,
    partition_types,
    require_architecture,
)
from cvmlab.machine.spec import Disk
from cvmlab.profiles.architecture import AARCH64, X86_64


MOST_S = 5  # whatever the table says of itself; 2**32 entries would take minutes
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def table(*types: str, first: int = 2, number: int = 128, size: int = 128) -> bytes:
    """Return the begin of a disk with partitions of these types."""
    head = bytearray(34 * 512)
    struct.pack_into("<8s64xQII", head, 512, b"EFI PART", first, number, size)
    for place, name in enumerate(types):
        at = first * 512 + place * size
        head[at : at + 16] = uuid.UUID(name).bytes_le
    return bytes(head)


def nobody() -> Path:
    raise AssertionError("a raw disk is read without a program")


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (table(ESP, X86_64.efi.root_partition), ("x86_64",)),
        (table(ESP, AARCH64.efi.root_partition), ("aarch64",)),
        (table(AARCH64.efi.root_partition, X86_64.efi.root_partition), ("x86_64", "aarch64")),
        (table(ESP), ()),
        (table(), ()),
        (b"", ()),
        (bytes(34 * 512), ()),
        (table(X86_64.efi.root_partition)[:700], ()),
        (table(size=0), ()),
        (table(first=1 << 60), ()),
        (table(ESP, X86_64.efi.root_partition, number=0xFFFFFFFF, size=1 << 7), ("x86_64",)),
        (table(number=0xFFFFFFFF, size=0xFFFFFFFF), ()),
    ],
)
def test_root_partitions_tell_the_architecture(head: bytes, names: tuple[str, ...]) -> None:
    began = time.monotonic()
    assert architectures_on(head) == names
    assert time.monotonic() - began < MOST_S


def test_types_are_in_the_order_of_the_table() -> None:
    assert partition_types(table(ESP, X86_64.efi.root_partition)) == (
        ESP, X86_64.efi.root_partition,
    )  # fmt: skip


def test_a_disk_for_another_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pc.raw"
    path.write_bytes(table(ESP, X86_64.efi.root_partition))
    require_architecture(Disk(path), X86_64, nobody)
    with pytest.raises(
        ConfigError, match=r"pc.raw is a disk for x86_64, and this guest is of aarch64"
    ) as refused:
        require_architecture(Disk(path), AARCH64, nobody)
    assert refused.value.hint == "--arch x86_64, or a disk for aarch64"


def test_a_disk_that_says_nothing_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "any.raw"
    path.write_bytes(bytes(4096))
    require_architecture(Disk(path), AARCH64, nobody)
