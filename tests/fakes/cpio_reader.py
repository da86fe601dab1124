# SPDX-License-Identifier: GPL-2.0-or-later
"""A reader of cpio archives that shares nothing with the writer."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class FoundEntry:
    inode: int
    mode: int
    owners: tuple[int, int]
    links: int
    modified: int
    device: tuple[int, int]
    data: bytes


def read_archive(data: bytes) -> dict[str, FoundEntry]:
    """Read an archive by the words of buffer-format.rst."""
    found: dict[str, FoundEntry] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        words = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        ino, mode, uid, gid, links, mtime, size, _, _, rmajor, rminor, name_size, check = words
        name_at = at + 110
        data_at = (name_at + name_size + 3) & ~3
        assert data[name_at + name_size - 1] == 0
        assert check == 0
        name = os.fsdecode(data[name_at : name_at + name_size - 1])
        if name == "TRAILER!!!":
            assert not data[data_at:].strip(b"\0")
            return found
        assert name not in found
        contents = data[data_at : data_at + size]
        found[name] = FoundEntry(ino, mode, (uid, gid), links, mtime, (rmajor, rminor), contents)
        at = (data_at + size + 3) & ~3
