# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock on a part of the cache, with a deadline."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvmlab.base.errors import BuildError, DeadlineExceeded


@contextmanager
def exclusive(lock_file: Path, what: str, *, deadline_s: float) -> Iterator[None]:
    """Hold *lock_file* while the block runs; the kernel releases it if the process dies.

    *what* completes "another ... is running".  Raise DeadlineExceeded if the lock stays taken.
    """
    from filelock import FileLock, Timeout  # takes 50 ms, and few commands build anything

    lock = FileLock(lock_file, poll_interval=0.5)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        sys.stderr.write(f"cvmlab: another {what} is running; waiting for it\n")
        try:
            lock.acquire(timeout=deadline_s)
        except Timeout:
            raise DeadlineExceeded(f"another {what} to end", deadline_s) from None
    except OSError as error:
        raise BuildError(
            f"cannot write {error.filename or lock_file}: {error.strerror}",
            hint="point XDG_CACHE_HOME to a folder that can be written",
        ) from error
    try:
        yield
    finally:
        lock.release()
