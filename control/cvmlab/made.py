# SPDX-License-Identifier: GPL-2.0-or-later
"""Files made for a boot and kept in the cache, named by what they are made of.

They appear complete or not at all, also when two processes make one at the same time; of each kind
the ones used last are kept.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cvmlab.packages import disk_errors
from cvmlab.paths import cache_dir


def kept(
    kind: str, suffix: str, key: Sequence[bytes | str], make: Callable[[Path], None], *, keep: int
) -> Path:
    """Return the file of *key*; *make* fills the file that it is given, if there is none yet."""
    folder = cache_dir() / kind
    path = folder / f"{digest(key)}{suffix}"
    if path.is_file():
        os.utime(path)  # keeps it among the ones in use
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


def digest(parts: Sequence[bytes | str]) -> str:
    """Name *parts*, each of them and in this order."""
    told = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
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
    except FileNotFoundError:  # another process forgot it first
        return None
