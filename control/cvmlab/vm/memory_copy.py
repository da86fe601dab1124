# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a VM's memory files, begun while its guest runs and finished when it stands still."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, final

import numpy as np

from cvmlab.base.errors import CommandRefused, VmExited
from cvmlab.machine.command_line import BACKEND_ID, BackendFds
from cvmlab.memory.journal import Journal
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import RECORDS_OFFSET, SHARED
from cvmlab.snapshots import manifest as files
from cvmlab.snapshots import sparse
from cvmlab.vm.launch import Memory
from cvmlab.vm.qmp import Qmp


_COMMAND: Final = "restricted-memory-follow-writes"
_WRITES: Final = "writes"  # a file in the folder, which is removed again
_COPY_S: Final = 60.0


def large(fds: BackendFds) -> dict[str, int]:
    """Return the files that hold the guest's memory, by the names of their images."""
    both = {files.PRIVATE: fds.private, files.SHARED: fds.shared}
    return {name: fd for name, fd in both.items() if fd is not None}


async def copy_memory(folder: Path, memory: Memory) -> dict[str, int]:
    """Copy the memory of a guest that stands still; return the sizes of the images, bytes."""
    fds = large(memory.files.fds)
    works = (partial(image, fd, folder / name) for name, fd in fds.items())
    return dict(zip(fds, await all_in_threads(works), strict=True))


@final
class CopiedSoFar:
    """A copy that was made while the guest ran.  Call finish() when it stands still."""

    def __init__(self, connection: Qmp, memory: Memory, folder: Path) -> None:
        self._connection = connection
        self._fds = large(memory.files.fds)
        self._pages = memory.files.size_bytes // PAGE_SIZE
        self._folder = folder

    async def finish(self) -> dict[str, int]:
        """Copy what was written meanwhile; return the sizes of the images, bytes."""
        file = self._folder / _WRITES
        arguments = {"id": BACKEND_ID, "file": str(file)}
        await self._connection.execute(
            "restricted-memory-take-writes", arguments, timeout_s=_COPY_S
        )
        written = np.fromfile(file, np.uint8).reshape(len(self._fds), -1)
        file.unlink()
        works = (
            partial(_refresh, fd, self._folder / name, bits, self._pages)
            for (name, fd), bits in zip(self._fds.items(), written, strict=True)
        )
        await all_in_threads(works)
        return {name: os.fstat(fd).st_size for name, fd in self._fds.items()}


@asynccontextmanager
async def copied_so_far(
    connection: Qmp, memory: Memory, folder: Path
) -> AsyncIterator[CopiedSoFar]:
    """Copy the memory of a running guest, and follow what it writes until the block is left."""
    try:
        await connection.execute(_COMMAND, {"id": BACKEND_ID, "on": True})
        await copy_memory(folder, memory)
        yield CopiedSoFar(connection, memory, folder)
    finally:
        with suppress(VmExited, CommandRefused):
            await connection.execute(_COMMAND, {"id": BACKEND_ID, "on": False})


def runs_of(
    bits: "np.ndarray[tuple[int], np.dtype[np.uint8]]", pages: int
) -> Iterator[tuple[int, int]]:
    """Yield offset and length, in bytes, of each run of pages whose bits are set."""
    is_set = np.unpackbits(bits, bitorder="little")[:pages]
    edges = np.flatnonzero(np.diff(is_set, prepend=0, append=0)).reshape(-1, 2)
    for first, end in edges.tolist():
        yield first * PAGE_SIZE, (end - first) * PAGE_SIZE


def _refresh(
    fd: int, target: Path, bits: "np.ndarray[tuple[int], np.dtype[np.uint8]]", pages: int
) -> int:
    with target.open("r+b") as made:
        return sparse.refresh(fd, made.fileno(), runs_of(bits, pages))


def copy_books(folder: Path, memory: Memory) -> dict[str, int]:
    """Copy table, ring and stacks of a guest that stands still; return their sizes, bytes."""
    fds = memory.files.fds
    sizes = {files.TABLE: image(fds.table, folder / files.TABLE)}
    if fds.stacks is not None:
        sizes[files.STACKS] = image(fds.stacks, folder / files.STACKS)
    _ring(fds.ring, folder / files.RING)
    return sizes | {files.RING: os.fstat(fds.ring).st_size}


def drain(journal: Journal) -> None:
    """Move all records of a guest that stands still from the ring to the file."""
    while journal.drain():
        pass


def image(fd: int, target: Path) -> int:
    """Copy a sparse file; return its size in bytes."""
    size = os.fstat(fd).st_size
    with target.open("wb") as made:
        made.truncate(size)
        sparse.copy(fd, made.fileno())
    return size


def copy_file(source: Path, target: Path) -> None:
    """Copy a file that may be sparse."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        image(fd, target)
    finally:
        os.close(fd)


def _ring(ring: int, target: Path) -> None:
    """Copy the header of the drained event ring, without the process that the guest belongs to."""
    kind, offset = SHARED.fields["owner"][:2]  # type: ignore[index]
    with target.open("wb") as made:
        made.truncate(os.fstat(ring).st_size)
        made.write(os.pread(ring, RECORDS_OFFSET, 0))
        made.flush()
        os.pwrite(made.fileno(), bytes(kind.itemsize), offset)


async def all_in_threads(works: Iterable[Callable[[], int]]) -> list[int]:
    """Return what *works* return.  None is at work any more when this returns or raises."""
    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(None, work) for work in works]
    try:
        await asyncio.wait(jobs)
    finally:
        await asyncio.wait(jobs)  # also if this is cancelled
    return [job.result() for job in jobs]
