# SPDX-License-Identifier: GPL-2.0-or-later
"""Files made for a boot and kept in the cache, named by a digest of their inputs.

A file appears complete or not at all, even if two processes make it at the same time.  The most
recently used files of each kind are kept.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cvmlab.base.paths import cache_dir
from cvmlab.debian.packages import disk_errors


def kept(
    kind: str, suffix: str, key: Sequence[bytes | str], make: Callable[[Path], None], *, keep: int
) -> Path:
    """Return the file of *key*; if there is none, *make* fills a new one."""
    folder = cache_dir() / kind
    path = folder / f"{digest(key)}{suffix}"
    if path.is_file():
        with suppress(OSError):  # the cache may be read-only
            os.utime(path)  # marks it as recently used
        return path
    with disk_errors():
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="new-")
        os.close(descriptor)
        temporary = Path(name)
        try:
            make(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _forget_oldest(folder, suffix, keep)
    return path


def key_of(path: Path) -> tuple[str, ...]:
    """Return words that are others when *path* is another file, or was written to; raise OSError."""
    status = path.stat()
    return str(path.resolve()), str(status.st_mtime_ns), str(status.st_size)


def digest(parts: Sequence[bytes | str]) -> str:
    """Return a name for *parts* in this order."""
    told = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part)  # a name of a file may be anything
        told.update(len(data).to_bytes(8, "little") + data)
    return told.hexdigest()[:32]


def _forget_oldest(folder: Path, suffix: str, keep: int) -> None:
    by_age = sorted(
        (status.st_mtime_ns, path)
        for path in folder.glob(f"*{suffix}")
        if (status := _status(path)) is not None
    )
    for _, path in by_age[:-keep]:
        path.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # another process removed it first
        return None
