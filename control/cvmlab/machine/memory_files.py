# SPDX-License-Identifier: GPL-2.0-or-later
"""The restricted memory files: creating, sizing, owning and closing them.

They are memfds, so no crash leaves anything in a file system.  QEMU inherits the descriptors by
number.  The files outlive the VM for as long as a process holds them open.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Protocol, Self, final

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.spec import require_memory_size
from cvmlab.memory.ranges import PAGE_SIZE, format_size
from cvmlab.memory.records import RECORD, RECORDS_OFFSET
from cvmlab.memory.stacks import STACKS_BYTES
from cvmlab.memory.states import Layout
from cvmlab.memory.table import PageTable


DEFAULT_RING_RECORDS = 65536


def require_ring_size(records: int) -> None:
    """Raise ConfigError unless the ring can hold *records* records."""
    if records < 2 or records & (records - 1):
        raise ConfigError(
            f"the event ring must hold a power of two of records (got {records})",
            hint=f"the default is {DEFAULT_RING_RECORDS}",
        )


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
        self.freed = False

    @classmethod
    def create(
        cls,
        size_bytes: int,
        *,
        layout: Layout,
        ring_records: int = DEFAULT_RING_RECORDS,
        private: HasFileno | None = None,
        stacks: bool = False,
    ) -> Self:
        """Make fresh files for *size_bytes* of guest memory; on failure nothing stays open.

        With *private*, that file is opened again as the private one, so that its lock belongs to
        this VM.  With *stacks*, there is a file for windows of guest stacks.  All others are sealed
        against resizing, so that a mapping of them cannot fault, and against more seals, such as one
        that would forbid QEMU to write.
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
                table=_memfd(stack, "table", table_bytes),
                ring=_memfd(stack, "ring", RECORDS_OFFSET + RECORD.itemsize * ring_records),
                stacks=_memfd(stack, "stacks", STACKS_BYTES) if stacks else None,
            )
            return cls(size_bytes, fds, stack.pop_all())

    @classmethod
    def of_process(cls, pid: int, size_bytes: int, fds: BackendFds) -> Self:
        """Open the files that process *pid* holds under the numbers *fds*."""

        def again(number: int) -> int:
            return _opened(stack, lambda: os.open(f"/proc/{pid}/fd/{number}", _OPEN_FLAGS))

        with ExitStack() as stack:
            try:
                mine = BackendFds.of(
                    {name: again(fd) for name, fd in asdict(fds).items() if fd is not None}
                )
            except OSError as error:
                raise ConfigError(
                    f"the memory files of process {pid} cannot be opened: {error.strerror}",
                    hint="is it still running, and yours?",
                ) from error
            return cls(size_bytes, mine, stack.pop_all())

    @classmethod
    def taken(cls, size_bytes: int, fds: BackendFds) -> Self:
        """Take over descriptors that another process sent."""
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

    def free(self) -> None:
        """Let go of the guest's memory, as its QEMU died; table and ring stay.

        The descriptors keep their numbers, so that no other file is taken for the memory.
        """
        self.freed = True
        nothing = os.open(os.devnull, _OPEN_FLAGS)
        for fd in (self.fds.private, self.fds.shared):
            if fd is not None:
                os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)

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


_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def _memfd(stack: ExitStack, name: str, size_bytes: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = _opened(stack, lambda: os.memfd_create(f"cvmlab-{name}", flags))
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise ConfigError(
            f"no {name} file of {format_size(size_bytes)} bytes: {error.strerror}",
            hint="check `ulimit -n` and `ulimit -f`, or give the guest less memory",
        ) from error
    return fd
