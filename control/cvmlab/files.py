# SPDX-License-Identifier: GPL-2.0-or-later
"""The restricted memory files: who creates, sizes, owns and closes them.

They are memfds, so nothing is left in any file system whatever dies first.  QEMU inherits the
descriptors by number.  The files outlive the VM for as long as somebody holds them open.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol, Self, final

from cvmlab.bootspec import require_memory_size
from cvmlab.errors import ConfigError
from cvmlab.machine import BackendFds
from cvmlab.ranges import PAGE_SIZE, format_size
from cvmlab.records import RECORD, RECORDS_OFFSET
from cvmlab.states import Layout
from cvmlab.table import PageTable


DEFAULT_RING_RECORDS = 65536


def require_ring_size(records: int) -> None:
    """Raise ConfigError unless the ring can hold *records* records."""
    if records < 2 or records & (records - 1):
        raise ConfigError(f"the event ring cannot hold {records} records: not a power of two")


class HasFileno(Protocol):
    """Something with a descriptor, such as Fd of cvmlab.generations."""

    def fileno(self) -> int: ...


@final
class RestrictedFiles:
    """All files of one backend.  A context manager: leaving it closes every descriptor."""

    def __init__(self, size_bytes: int, fds: BackendFds, owned: ExitStack) -> None:
        """Take over *fds*; use create() or of_process()."""
        self.size_bytes = size_bytes
        self.fds = fds
        self._owned = owned
        self._bound = False

    @classmethod
    def create(
        cls,
        size_bytes: int,
        *,
        layout: Layout,
        ring_records: int = DEFAULT_RING_RECORDS,
        private: HasFileno | None = None,
    ) -> Self:
        """Make fresh files for *size_bytes* of guest memory; on failure nothing stays open.

        *private* is to be the private one, opened again, so that its lock is this VM's own.
        Table and ring are sealed against changes of size, so that a mapping of them cannot fault.
        """
        require_memory_size(size_bytes)
        require_ring_size(ring_records)
        table_bytes = -(-size_bytes // PAGE_SIZE // PAGE_SIZE) * PAGE_SIZE
        with ExitStack() as stack:
            fds = BackendFds(
                private=_memfd(stack, "private", size_bytes)
                if private is None
                else _reopened(stack, private, size_bytes),
                shared=_memfd(stack, "shared", size_bytes) if layout is Layout.SPLIT else None,
                table=_memfd(stack, "table", table_bytes, seal=True),
                ring=_memfd(
                    stack, "ring", RECORDS_OFFSET + RECORD.itemsize * ring_records, seal=True
                ),
            )
            return cls(size_bytes, fds, stack.pop_all())

    @classmethod
    def of_process(cls, pid: int, size_bytes: int, fds: BackendFds) -> Self:
        """Open the files that process *pid* holds under the numbers *fds*."""

        def again(number: int) -> int:
            return _opened(stack, lambda: os.open(f"/proc/{pid}/fd/{number}", _OPEN_FLAGS))

        with ExitStack() as stack:
            try:
                shared = None if fds.shared is None else again(fds.shared)
                mine = BackendFds(again(fds.private), shared, again(fds.table), again(fds.ring))
            except OSError as error:
                raise ConfigError(
                    f"the memory files of process {pid} cannot be opened: {error.strerror}",
                    hint="is it still running, and yours?",
                ) from error
            return cls(size_bytes, mine, stack.pop_all())

    @classmethod
    def taken(cls, size_bytes: int, fds: BackendFds) -> Self:
        """Take over descriptors that somebody sent."""
        with ExitStack() as stack:
            for fd in fds.all:
                stack.callback(os.close, fd)
            return cls(size_bytes, fds, stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self) -> None:
        """Claim the files for one VM; raise ConfigError if they already have one.

        The lock belongs to the open file, which QEMU inherits: it holds until both sides are gone.
        """
        if self._bound:
            raise _already_bound()
        try:
            fcntl.flock(self.fds.private, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _already_bound() from error
        self._bound = True

    def page_table(self) -> PageTable:
        """Return the page states, readable until these files are closed."""
        return PageTable(self.fds.table, self.size_bytes // PAGE_SIZE)

    def storage_bytes(self) -> tuple[int, int]:
        """Return how much storage the private and the shared file take; 0 for no shared file."""
        private = os.fstat(self.fds.private).st_blocks * 512
        shared = 0 if self.fds.shared is None else os.fstat(self.fds.shared).st_blocks * 512
        return private, shared

    def close(self) -> None:
        self._owned.close()


_OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC


def _already_bound() -> ConfigError:
    return ConfigError(
        "these memory files are already bound to a VM",
        hint="stop the other VM first (`cvmlab ps` lists them), or use fresh files",
    )


def _opened(stack: ExitStack, opener: Callable[[], int]) -> int:
    fd = opener()
    stack.callback(os.close, fd)
    return fd


def _reopened(stack: ExitStack, file: HasFileno, size_bytes: int) -> int:
    fd = _opened(stack, lambda: os.open(f"/proc/self/fd/{file.fileno()}", _OPEN_FLAGS))
    if (size := os.fstat(fd).st_size) != size_bytes:
        raise ConfigError(
            f"the private file has {size} bytes, the guest's memory {size_bytes}",
            hint="make them equal",
        )
    return fd


def _memfd(stack: ExitStack, name: str, size_bytes: int, *, seal: bool = False) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = _opened(stack, lambda: os.memfd_create(f"cvmlab-{name}", flags))
        os.ftruncate(fd, size_bytes)
        if seal:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError as error:
        raise ConfigError(
            f"no {name} file of {format_size(size_bytes)} bytes: {error.strerror}",
            hint="check `ulimit -n` and `ulimit -f`, or give the guest less memory",
        ) from error
    return fd
