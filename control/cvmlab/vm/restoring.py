# SPDX-License-Identifier: GPL-2.0-or-later
"""Start a VM from a snapshot: its files are filled while QEMU starts, which does not touch them."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, final

from cvmlab.base.errors import CommandRefused, ConfigError
from cvmlab.listening.heard import Heard
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import Journal, JournalFile
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import RECORD, RECORDS_OFFSET
from cvmlab.memory.states import PageState
from cvmlab.qemu.build import build_of
from cvmlab.runs.run_dir import RunDir
from cvmlab.snapshots import manifest as parts
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.vm.qmp import Qmp


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from cvmlab.vm.launch import Parts, Setting


_LOAD_TIMEOUT_S = 60.0
# QEMU looks at these when it starts, and into the large ones only once it has the guest.
_LOOKED_AT = (parts.TABLE, parts.RING, parts.STACKS)


def ring_records(origin: SnapshotFolder) -> int:
    """Return how many records the event ring of the saved VM had room for."""
    return (origin.sizes()[parts.RING] - RECORDS_OFFSET) // RECORD.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A VM was not booted: it goes on from a snapshot, and its journal from that VM's.

    ``resumed_ns`` is when, on the clock of the journal's host times (CLOCK_MONOTONIC).
    """

    snapshot: str
    saved: str
    record: int
    warm: bool
    resumed_ns: int

    @classmethod
    def of(cls, origin: SnapshotFolder) -> "Restored":
        manifest = origin.manifest
        return cls(
            snapshot=str(origin.path),
            saved=manifest.saved,
            record=manifest.record,
            warm=manifest.key is not None,
            resumed_ns=time.monotonic_ns(),
        )


def require_same_qemu(origin: SnapshotFolder, program: "Path") -> None:
    """Raise ConfigError unless *program* is a QEMU that can go on with a guest of *origin*."""
    wanted, found = origin.manifest.qemu_build, build_of(program)
    if wanted != found:
        raise ConfigError(
            f"the snapshot {origin.path} was saved by another QEMU ({wanted}, not {found})",
            hint="choose that one with --qemu-version, or save the VM again",
        )


def fork_settings(parent: "Setting", count: int, given: "Mapping[str, Any]") -> "Iterator[Setting]":
    """Yield the settings of *count* copies of a VM: as the parent's, but for files and names."""
    for number in range(1, count + 1):
        name = f"{given.get('name', parent.name)}-{number}"
        fresh = replace(parent, run_dir=None, private_file=None)
        yield replace(fresh, **{**given, "name": name})


@final
class Filling:
    """Fills the memory files of a VM from *origin*.  Use begin(), then done()."""

    def __init__(self, origin: SnapshotFolder, jobs: Sequence["asyncio.Future[None]"]) -> None:
        self.origin = origin
        self._jobs = jobs

    @classmethod
    async def begin(
        cls, stack: AsyncExitStack, origin: SnapshotFolder, files: RestrictedFiles, run: RunDir
    ) -> "Filling":
        """Fill what QEMU looks at now, the rest in threads, which *stack* waits for."""
        # The images have the names of the files.
        held = {name: fd for name, fd in asdict(files.fds).items() if fd is not None}
        if set(held) != set(origin.sizes()):
            raise ConfigError(
                f"the snapshot {origin.path} has other memory files than this VM",
                hint="save the VM again",
            )
        jobs: list[asyncio.Future[None]] = []
        stack.push_async_callback(_join, jobs)

        async def now(work: Callable[..., None], *arguments: object) -> None:
            jobs.append(_in_thread(work, *arguments))
            await asyncio.shield(jobs[-1])

        for name in _LOOKED_AT:
            if name in held:
                await now(origin.fill, name, held[name])
        jobs.extend(
            _in_thread(_fill, origin, name, held[name], files)
            for name in held
            if name not in _LOOKED_AT
        )
        if origin.is_to_be_verified:
            jobs.append(_in_thread(origin.verify))
        copies = ((parts.EVENTS, run.events), (parts.CONSOLE, run.console_log))
        for name, target in (*copies, (parts.EXEC, run.exec_log)):
            await now(origin.take, name, target)
        return cls(origin, jobs)

    async def done(self) -> None:
        """Return when all is filled and verified; raise ConfigError if the snapshot is damaged."""
        await asyncio.gather(*map(asyncio.shield, self._jobs))


def _fill(origin: SnapshotFolder, name: str, fd: int, files: RestrictedFiles) -> None:
    """Fill a memory file, and give storage to the pages that had it, but were never written to.

    Such a page is a hole for SEEK_DATA (shmem_file_llseek() in mm/shmem.c); the table knows it.
    """
    states = {PageState.PRIVATE} if name == parts.PRIVATE else {PageState.SHARED}
    if files.fds.shared is None:
        states = {PageState.PRIVATE, PageState.SHARED}
    runs = [
        (run.first * PAGE_SIZE, run.count * PAGE_SIZE)
        for run in files.page_table().iterate_runs()
        if run.state in states
    ]
    origin.fill(name, fd, runs)
    try:
        for at, length in runs:
            os.posix_fallocate(fd, at, length)
    except OSError as error:
        raise ConfigError(
            f"the guest's memory has no room: {error.strerror}", hint="free some memory"
        ) from error


def _in_thread(work: "Callable[..., None]", *arguments: object) -> "asyncio.Future[None]":
    """Begin *work*.  Who waits for the future has to shield it: a thread cannot be cancelled."""
    return asyncio.get_running_loop().run_in_executor(None, work, *arguments)


async def _join(jobs: Sequence["asyncio.Future[None]"]) -> None:
    """Wait for all, whatever comes of them: they write to descriptors that are closed next."""
    await asyncio.gather(*jobs, return_exceptions=True)


async def overlays(
    stack: AsyncExitStack, origin: SnapshotFolder, run: RunDir
) -> "tuple[Path, ...]":
    """Copy what the guest has written to its disks into the run folder."""
    made = []
    for number in range(len(origin.spec.disks)):
        target = run.path / f"disk{number}.qcow2"
        stack.callback(target.unlink, missing_ok=True)
        await asyncio.to_thread(origin.take, target.name, target)
        made.append(target)
    return tuple(made)


async def give_the_guest(fresh: "Parts", filling: Filling) -> "Parts":
    """Load CPUs and devices into the QEMU of *fresh*, and let its listeners go on.

    :raise ConfigError: the snapshot is damaged, or does not fit this QEMU.
    """
    memory, origin = fresh.memory, filling.origin
    if memory is None:
        raise ConfigError("a VM without restricted memory cannot be restored")
    await filling.done()
    heard = Heard.decode(_heard_of(origin), where=str(origin.path))
    heard.tell(fresh.console, fresh.agent, fresh.output)
    _recall(memory.journal)
    await _load(fresh.connection, origin)
    return replace(fresh, channels=replace(fresh.channels, restores=False))


def _heard_of(origin: SnapshotFolder) -> bytes:
    try:
        return (origin.path / parts.HEARD).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the snapshot {origin.path} is damaged: {parts.HEARD}: {error.strerror}",
            hint="save the VM again",
        ) from error


def _recall(journal: Journal) -> None:
    found = JournalFile(journal.path)
    if len(found.written):
        found.require_sense()
    journal.recall(found.written)


async def _load(connection: Qmp, origin: SnapshotFolder) -> None:
    arguments = {"id": BACKEND_ID, "file": str(origin.path / parts.STATE)}
    try:
        await connection.execute("restricted-memory-restore", arguments, timeout_s=_LOAD_TIMEOUT_S)
    except CommandRefused as error:
        raise ConfigError(
            f"the snapshot {origin.path} does not fit this VM: {error.desc}",
            hint="save the VM again with this QEMU",
        ) from error
