# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of the host for a guest whose kernel has no 9p: a disk with a copy of its files.

mke2fs writes a folder into a file without mounting it.  The file is cached, and made again when a
name, size, mode or time in the folder has changed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from cvmlab.base.errors import ImageError
from cvmlab.debian import apt, cache
from cvmlab.debian.apt_call import run


_KEPT = 8
_DEADLINE_S = 600
_BLOCK_BYTES = 4096
_INODE_BYTES = 256
_SPARE_BYTES = 4 << 20
_MKE2FS_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"


def folder_image(folder: Path) -> Path:
    """Return an ext4 image of *folder*, from the cache if nothing has changed."""
    apt.ensure([apt.Need.FOLDER])
    entries = list(_entries(folder))
    key = [str(folder.absolute()), *(f"{name}\0{status}" for name, status, _ in entries)]
    contents = sum(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES for _, _, size in entries)
    # Two blocks an entry for folders and long names, and some room for the allocator.
    overhead = len(entries) * (2 * _BLOCK_BYTES + _INODE_BYTES)
    size = contents + contents // 16 + overhead + _SPARE_BYTES

    def make(path: Path) -> None:
        _mke2fs(folder, path, size, inodes=len(entries) + 64)

    return cache.kept("share", ".ext4", key, make, keep=_KEPT)


def _entries(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Yield name, status and size of everything in *folder*; the status shows changes."""
    for root, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(root, name)
            status = path.lstat()
            told = f"{status.st_mode:o} {status.st_size} {status.st_mtime_ns}"
            size = status.st_size if path.is_file() and not path.is_symlink() else 0
            yield str(path.relative_to(folder)), told, size
        folders.sort()


def _mke2fs(folder: Path, target: Path, size: int, *, inodes: int) -> None:
    with target.open("wb") as file:
        file.truncate(-(-size // _BLOCK_BYTES) * _BLOCK_BYTES)
    # fmt: off
    command = [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-m", "0",
        "-O", "^has_journal", "-N", str(inodes), "-d", str(folder), str(target),
    ]
    # fmt: on
    path = f"{os.environ.get('PATH', os.defpath)}:{_MKE2FS_PATHS}"
    status, _, errors = run(command, what="mke2fs", deadline_s=_DEADLINE_S, env={"PATH": path})
    if status != 0:
        told = (errors.strip().splitlines() or [f"mke2fs failed ({status})"])[-1]
        raise ImageError(f"the folder {folder} cannot be made into a disk: {told}")
