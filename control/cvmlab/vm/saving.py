# SPDX-License-Identifier: GPL-2.0-or-later
"""Save a VM: most of its memory is copied while the guest runs, the rest while it stands still."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cvmlab import __version__
from cvmlab.base.errors import CommandRefused, ConfigError, DeadlineExceeded
from cvmlab.base.paths import cache_dir
from cvmlab.listening.heard import Heard, all_is_read, waiting_bytes
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.qemu.build import build_of
from cvmlab.snapshots import manifest as files
from cvmlab.snapshots.manifest import BaseDisk, Manifest, StoredFile
from cvmlab.snapshots.snapshot_folder import (
    SnapshotFolder,
    being_written,
    not_written,
    store_file,
)
from cvmlab.snapshots.spec_document import boot_files, to_document
from cvmlab.vm.launch import Memory, Parts
from cvmlab.vm.memory_copy import copied_so_far, copy_books, copy_file, copy_memory, drain


SAVE_TIMEOUT_S = 60.0
_QUIET_S = 5.0
_MOST_ROUNDS = 1000  # of a few bytes each
_RETRY_S = 0.02
_UNFINISHED = "try again when it is there"
_IN_MEMORY = Path("/dev/shm")
FORK_PREFIX = "cvmlab-fork-"


@dataclass(frozen=True, slots=True)
class Saved:
    """A VM was saved; its guest stood still for ``standstill_s`` seconds."""

    path: str
    record: int
    bytes: int
    standstill_s: float


Alone = Callable[[], AbstractAsyncContextManager[None]]


async def save(
    parts: Parts,
    place: Path,
    alone: Alone,
    *,
    compress: bool = False,
    key: str | None = None,
    has_failed: bool = False,
    timeout_s: float = SAVE_TIMEOUT_S,
) -> Saved:
    """Save the VM of *parts* in the folder *place*, which is replaced as a whole.

    *alone* keeps others away from the VM while it is copied.  *key* is that of a warm boot.  A guest
    that *has_failed* is paused when it is restored.

    :raise CvmError: nothing was saved, and the guest runs on.
    """
    with being_written(place) as folder:
        own = await asyncio.to_thread(_copy_boot_files, folder, parts)
        async with alone():
            frozen = await _freeze(parts, folder, own, timeout_s)
        frozen = msgspec.structs.replace(frozen, running=frozen.running and not has_failed)
        manifest = await asyncio.to_thread(_finish, folder, frozen, key, compress=compress)
    stored = await asyncio.to_thread(_storage, place)
    return Saved(str(place), manifest.record, stored, manifest.standstill_s)


async def freeze_for_forks(parts: Parts, *, timeout_s: float = SAVE_TIMEOUT_S) -> SnapshotFolder:
    """Save the VM in memory, for VMs of this process; the folder goes with the last of them."""
    folder = Path(tempfile.mkdtemp(prefix=f"{FORK_PREFIX}{os.getpid()}-", dir=_room_for(parts)))
    try:
        manifest = await _freeze(parts, folder, {}, timeout_s)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise not_written(folder, error) from error
        raise
    return SnapshotFolder.passing(folder, manifest, parts.spec.without_ports)


def _room_for(parts: Parts) -> Path:
    """Return where a copy fits: in memory, as long as no other file is kept from its room."""
    used = 0 if parts.memory is None else sum(parts.memory.files.storage_bytes())
    try:
        _remove_forks_of_the_dead()
        found = os.statvfs(_IN_MEMORY)
        room = found.f_bavail * found.f_frsize if os.access(_IN_MEMORY, os.W_OK) else 0
    except OSError:
        room = 0
    return _IN_MEMORY if room > 2 * used else parts.run.path


def _remove_forks_of_the_dead() -> None:
    for path in _IN_MEMORY.glob(f"{FORK_PREFIX}*"):
        pid = path.name.removeprefix(FORK_PREFIX).partition("-")[0]
        is_mine = path.lstat().st_uid == os.getuid()
        if is_mine and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


async def _freeze(
    parts: Parts, folder: Path, own: Mapping[Path, str], timeout_s: float
) -> Manifest:
    """Copy what changes while the guest runs; return a manifest without digests.

    Most of memory is copied while the guest still runs, and what it wrote meanwhile when it stands
    still.
    """
    memory = parts.memory
    if memory is None:
        raise ConfigError(
            "a VM without restricted memory cannot be saved", hint="boot it with --coco generic"
        )
    await _require_savable(parts)
    async with AsyncExitStack() as stack:
        copied = None
        if await _is_running(parts):
            copied = await stack.enter_async_context(
                copied_so_far(parts.connection, memory, folder)
            )
        moment = await stack.enter_async_context(_standing_still(parts, folder, timeout_s))
        sizes = await copy_memory(folder, memory) if copied is None else await copied.finish()
        drain(memory.journal)
        sizes |= copy_books(folder, memory)
        shutil.copyfile(memory.journal.path, folder / files.EVENTS)
        _copy_output(parts, folder)
        for overlay in parts.channels.overlays:
            await asyncio.to_thread(copy_file, overlay, folder / overlay.name)
        await _require_untouched(parts, moment, memory)
    return Manifest(
        cvmlab=__version__,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
        qemu_version=parts.qemu_version,
        qemu_build=build_of(Path(parts.process.argv[0])),
        coco=parts.spec.coco,
        memory_bytes=parts.spec.memory_bytes,
        debuggable=parts.spec.debuggable,
        holds_private_memory_in_the_clear=True,
        running=moment.ran,
        standstill_s=round(moment.lasted_s, 6),
        record=moment.record,
        release=parts.agent.release,
        spec=to_document(parts.spec, own),
        files={name: StoredFile("", size) for name, size in sizes.items()},
        disks=[BaseDisk.of(disk.path) for disk in parts.spec.disks],
    )


async def _require_savable(parts: Parts) -> None:
    spec, overlays = parts.spec, parts.channels.overlays
    if spec.disks and not overlays:
        raise ConfigError(
            "this VM's disks cannot be saved: only its QEMU can open the file with its writes",
            hint="run `cvmlab build`, which makes qemu-img, and boot the VM again",
        )
    known = {str(path) for path in overlays}
    for entry in await parts.connection.execute("query-block"):
        medium = entry.get("inserted")
        if medium and not medium["ro"] and medium["file"] not in known:
            raise ConfigError(
                f"the disk {entry['device']} cannot be saved: what the guest wrote is in "
                f"{medium['file']}, for a checkpoint or by a command",
                hint="save the VM before its first checkpoint",
            )


async def _is_running(parts: Parts) -> bool:
    status: str = (await parts.connection.execute("query-status"))["status"]
    return status == "running"


@dataclass(slots=True)
class _Moment:
    """When a VM was saved: the journal's record, whether it ran, and how long it stood still."""

    record: int
    ran: bool
    began_s: float  # time.monotonic()
    lasted_s: float = 0.0


@asynccontextmanager
async def _standing_still(parts: Parts, folder: Path, timeout_s: float) -> AsyncIterator[_Moment]:
    """Stop the guest and write its state; let it run again behind the block, if it ran."""
    moment = await _write_state(parts, folder / files.STATE, timeout_s)
    try:
        yield moment
    finally:
        if moment.ran:
            await parts.connection.execute("cont")
        moment.lasted_s = time.monotonic() - moment.began_s


async def _write_state(parts: Parts, file: Path, timeout_s: float) -> _Moment:
    """Stop the guest at a moment when nothing is under way, and write its state."""
    connection = parts.connection
    arguments = {"id": BACKEND_ID, "file": str(file)}
    end_s = time.monotonic() + timeout_s
    while True:
        # It may have been stopped meanwhile, by a fault or by somebody else.
        ran, began_s = await _is_running(parts), time.monotonic()
        try:
            if ran:
                await connection.execute("stop")
            await _all_is_said(parts)
            reply = await connection.execute(
                "restricted-memory-save", arguments, timeout_s=timeout_s
            )
            return _Moment(int(reply["record"]), ran, began_s)
        except BaseException as error:
            if ran:
                await connection.execute("cont")
            is_busy = isinstance(error, CommandRefused) and _UNFINISHED in error.desc
            if not is_busy or not ran or time.monotonic() > end_s:
                raise
        await asyncio.sleep(_RETRY_S)


async def _require_untouched(parts: Parts, moment: _Moment, memory: Memory) -> None:
    """Raise ConfigError if somebody has let the guest run, or changed a page, since it was saved."""
    if await _is_running(parts) or memory.journal.ring.claimed != moment.record:
        raise ConfigError("another command changed the VM while it was saved", hint="save it again")


async def _all_is_said(parts: Parts) -> None:
    """Let a stopped guest's serial ports send what they still hold, and read it.

    Otherwise the saved port would send it again.  An answer by QMP shows that QEMU's main loop, which
    sends it, has been around.
    """
    parts.voice.resume_reading()
    sockets = (parts.wires.console.ours, parts.wires.agent.ours)
    for _ in range(_MOST_ROUNDS):
        await all_is_read(sockets, timeout_s=_QUIET_S)
        await parts.connection.execute("query-status")
        if not any(map(waiting_bytes, sockets)):
            return
    raise DeadlineExceeded("the guest's serial ports to be empty", _QUIET_S)


def _copy_output(parts: Parts, folder: Path) -> None:
    heard = Heard.of(parts.console, parts.agent, parts.output)
    (folder / files.HEARD).write_bytes(heard.encode())
    for name, path in ((files.CONSOLE, parts.run.console_log), (files.EXEC, parts.run.exec_log)):
        if path.exists():
            shutil.copyfile(path, folder / name)


def _copy_boot_files(folder: Path, parts: Parts) -> dict[Path, str]:
    """Copy what QEMU reads again at a reset of the guest; return the names of the copies.

    :raise ConfigError: one was changed since the VM was started.
    """
    spec, started_ns = parts.spec, (parts.run.path / "cmdline").stat().st_mtime_ns
    own = boot_files(spec)
    for path, name in own.items():
        # The cache is by content, and marks a file as used by its time.
        is_cached = path.is_relative_to(cache_dir())
        if not is_cached and path.stat().st_mtime_ns > started_ns:
            raise ConfigError(
                f"{path} was changed since the VM was started: a reset would boot something else",
                hint="boot the VM again",
            )
        shutil.copyfile(path, folder / name)
    return own


def _storage(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def _finish(folder: Path, manifest: Manifest, key: str | None, *, compress: bool) -> Manifest:
    """Add digests, and write the manifest."""
    stored = {
        path.name: store_file(folder, path.name, compress=compress and path.name in _COMPRESSED)
        for path in sorted(folder.glob("[!.]*"))
    }
    manifest = msgspec.structs.replace(manifest, files=stored, key=key)
    (folder / files.MANIFEST).write_bytes(manifest.encode())
    return manifest


_COMPRESSED = frozenset({files.PRIVATE, files.SHARED})
