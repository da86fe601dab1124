# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock on a part of the cache, with a deadline, which flock() does not know."""

import fcntl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmlab.errors import BuildError, DeadlineExceeded


_POLL_S = 0.5


@contextmanager
def exclusive(lock_file: Path, what: str, *, deadline_s: float) -> Iterator[None]:
    """Hold *lock_file* while the block runs; it is released also when the process dies.

    *what* completes "another ... is running".  Raise DeadlineExceeded if it does not end in time.
    """
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("w", encoding="utf-8")
    except OSError as error:
        raise BuildError(
            f"cannot write {error.filename}: {error.strerror}",
            hint="point XDG_CACHE_HOME to a folder that can be written",
        ) from error
    with lock:
        if not _try_lock(lock.fileno()):
            sys.stderr.write(f"cvmlab: another {what} is running; waiting for it\n")
            _wait(lock.fileno(), what, deadline_s)
        yield


def _wait(lock: int, what: str, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    never = threading.Event()
    while not _try_lock(lock):
        if time.monotonic() > end:
            raise DeadlineExceeded(f"another {what} to end", deadline_s)
        never.wait(_POLL_S)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
