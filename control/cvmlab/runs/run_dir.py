# SPDX-License-Identifier: GPL-2.0-or-later
"""Run folders: the files of a VM, by which another terminal finds it.

A folder has ``cmdline``, ``console.log``, ``qemu.log``, ``qmp.jsonl``, ``events.bin``,
``qmp.sock``, ``vm.json`` and, at the end, ``result.json``.

Decision: a folder that cvmlab has made or was given has a mark, and in one without the mark no file
is replaced or removed: a user's own ``result.json`` or ``disk0.qcow2`` looks like ours.  A folder of
the user's choice has a link in the state directory while its VM runs, so that it is listed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self, final

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError, InvariantError


# struct sockaddr_un has room for 108 bytes, the last of them zero.
_SOCKET_PATH_BYTES = 107
# What a run may write into its folder, but for the overlays of its disks.
_FILES = (
    "cmdline", "console.log", "exec.log", "qemu.log", "qmp.jsonl", "events.bin", "vm.json",
    "names.json", "result.json", "memory.core", "memory.core.pages.npz", "certificates.bin",
)  # fmt: skip
MEMORY_CORE = "memory.core"
_SOCKETS = (
    "qmp.sock", "quotes.sock", "own.sock", "cpr.sock", "main.sock", "qmp0", "qmp1", "debug.sock",
)  # fmt: skip
_NUMBERED = ("disk*.qcow2", "qemu-*.log")
STATE_FOLDER = "state"  # the guest as it was when it failed, a snapshot
_MARK = ".cvmlab-run"
_HINT = "choose another folder with --run-dir"


class ProcessId(msgspec.Struct, frozen=True):
    """A process; its start time (clock ticks) distinguishes it from a later one of the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Describe a process; raise ProcessLookupError if there is none."""
        return cls(pid, _stat(pid)[1])

    @property
    def alive(self) -> bool:
        try:
            state, started = _stat(self.pid)
        except ProcessLookupError:
            return False
        return started == self.started and state not in (b"Z", b"X")


class MemoryFiles(msgspec.Struct, frozen=True):
    """Descriptor numbers of the memory files in the QEMU process, for other processes to open."""

    private: int
    shared: int | None
    table: int
    ring: int
    stacks: int | None = None


class VmInfo(msgspec.Struct, frozen=True):
    """The content of ``vm.json``; ``files`` is None without restricted memory."""

    name: str
    coco: str
    memory_bytes: int
    created_s: float
    controller: ProcessId
    qemu: ProcessId
    files: MemoryFiles | None


class FoundRun(msgspec.Struct, frozen=True):
    """A run folder that was found, running or stale."""

    path: Path
    info: VmInfo

    @property
    def running(self) -> bool:
        return self.info.qemu.alive

    @property
    def orphaned(self) -> bool:
        """QEMU runs and the controller does not, which is only possible while the kernel kills it."""
        return self.running and not self.info.controller.alive


@final
class RunDir:
    """The folder of one VM.  A folder chosen by the user is never removed."""

    def __init__(self, path: Path, *, removable: bool, link: Path | None = None) -> None:
        self.path = path
        self._removable = removable
        self._link = link  # to this folder, in the state directory

    @classmethod
    def create(cls, name: str, chosen: Path | None = None) -> Self:
        """Make the folder: *chosen*, or a new one under the state directory."""
        try:
            if chosen is not None:
                path, removable = chosen.absolute(), False
                path.mkdir(parents=True, exist_ok=True)
                _require_unused(path)
                _require_ours(path)
            else:
                path, removable = _fresh(name), True
        except OSError as error:
            raise ConfigError(
                f"no run folder {error.filename}: {error.strerror}", hint=_HINT
            ) from error
        self = cls(path, removable=removable)
        if len(os.fsencode(self.quote_socket)) > _SOCKET_PATH_BYTES:  # the longer of the two
            self.close(keep=False)
            raise ConfigError(f"the path of {path} is too long for a Unix socket", hint=_HINT)
        claim(path)
        for stale in (*_FILES, *_SOCKETS):
            (path / stale).unlink(missing_ok=True)
        shutil.rmtree(path / STATE_FOLDER, ignore_errors=True)
        if chosen is not None:
            self._link = _linked(path, name)
        return self

    @property
    def console_log(self) -> Path:
        return self.path / "console.log"

    @property
    def exec_log(self) -> Path:
        return self.path / "exec.log"

    @property
    def qemu_log(self) -> Path:
        return self.path / "qemu.log"

    @property
    def qmp_log(self) -> Path:
        return self.path / "qmp.jsonl"

    @property
    def qmp_socket(self) -> Path:
        return self.path / "qmp.sock"

    @property
    def quote_socket(self) -> Path:
        return self.path / "quotes.sock"

    @property
    def certificates(self) -> Path:
        """What the host hands to a guest whose reports are signed."""
        return self.path / "certificates.bin"

    @property
    def events(self) -> Path:
        return self.path / "events.bin"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def memory_core(self) -> Path:
        """A dump of a debuggable guest's memory at its end."""
        return self.path / MEMORY_CORE

    @property
    def vm_json(self) -> Path:
        return self.path / "vm.json"

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a small file atomically: another process sees the old file or the new one."""
        path = self.path / name
        fresh = path.with_name(f".{name}.new")
        try:
            fresh.write_bytes(os.fsencode(text))
            fresh.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}", hint=_HINT) from error
        return path

    def forget_guest(self) -> None:
        """Remove what a guest has left that is not the one which runs now."""
        for path in (self.events, self.console_log, self.exec_log):
            path.unlink(missing_ok=True)

    def publish(self, info: VmInfo) -> None:
        """Make this VM visible to ``ps`` and other terminals."""
        self.write(self.vm_json.name, msgspec.json.encode(info))

    def close(self, *, keep: bool) -> None:
        """Remove the folder, or only its sockets if it is kept."""
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        if self._removable and not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.qmp_socket.unlink(missing_ok=True)
            self.quote_socket.unlink(missing_ok=True)


def _require_unused(path: Path) -> None:
    run = load_run(path)
    if run is not None and run.running:
        raise ConfigError(f"the VM {run.info.name!r} is running in {path}", hint=_HINT)


def claim(path: Path) -> None:
    """Mark *path* as a folder whose files are cvmlab's, and in use by this process."""
    (path / _MARK).write_bytes(msgspec.json.encode(ProcessId.of(os.getpid())))


def claimed_by(path: Path) -> ProcessId | None:
    """Return the process that marked *path*, None if nobody did."""
    try:
        return msgspec.json.decode((path / _MARK).read_bytes(), type=ProcessId)
    except (OSError, *NO_DOCUMENT):
        return None


def _require_ours(path: Path) -> None:
    """Raise ConfigError if a run would replace a file that is not known to be cvmlab's."""
    if (path / _MARK).exists() or load_run(path) is not None:
        return
    numbered = (found.name for pattern in _NUMBERED for found in sorted(path.glob(pattern)))
    names = [name for name in (*_FILES, *_SOCKETS, STATE_FOLDER) if os.path.lexists(path / name)]
    taken = next(iter([*names, *numbered]), None)
    if taken is not None:
        raise ConfigError(
            f"{path} has a file {taken} that is not of a run of cvmlab, and would be replaced",
            hint="choose an empty folder with --run-dir",
        )


def _linked(path: Path, name: str) -> Path | None:
    """Make the link by which other terminals find *path*; None where it cannot be made."""
    with suppress(OSError):
        parent = runs_dir()
        parent.mkdir(parents=True, exist_ok=True)
        for link in _candidates(parent, f"{name}-{os.getpid()}"):
            with suppress(FileExistsError):
                link.symlink_to(path)
                return link
    return None


def runs_dir() -> Path:
    """Return ``$XDG_STATE_HOME/cvmlab/runs``."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cvmlab" / "runs"


def load_run(path: Path) -> FoundRun | None:
    """Read a run folder; return None if *path* is not one, or of another version."""
    try:
        info = msgspec.json.decode((path / "vm.json").read_bytes(), type=VmInfo)
    except (OSError, *NO_DOCUMENT):
        return None
    return FoundRun(path, info)


def find_runs(where: Path | None = None) -> list[FoundRun]:
    """List run folders, running and stale, oldest first."""
    folder = where or runs_dir()
    listed = folder.iterdir() if folder.is_dir() else iter(())
    paths = {path.resolve() if path.is_symlink() else path for path in listed}
    runs = [run for path in paths if (run := load_run(path)) is not None]
    return sorted(runs, key=lambda run: run.info.created_s)


def find_running(name: str, where: Path | None = None) -> FoundRun:
    """Return the running VM *name*: its name, the name of its folder, or the folder's path."""
    if "/" in name:
        run = load_run(Path(name))
        candidates = [] if run is None else [run]
    else:
        candidates = [r for r in find_runs(where) if name in (r.info.name, r.path.name)]
    running = [run for run in candidates if run.running]
    match running:
        case [run]:
            return run
        case []:
            gone = f"; its last run is in {candidates[-1].path}" if candidates else ""
            raise ConfigError(
                f"no VM {name!r} is running{gone}", hint="`cvmlab ps` lists the VMs that run"
            )
        case _:
            folders = ", ".join(run.path.name for run in running)
            raise ConfigError(f"several VMs are called {name!r}", hint=f"choose one of {folders}")


def _fresh(name: str) -> Path:
    parent = runs_dir()
    parent.mkdir(parents=True, exist_ok=True)
    for path in _candidates(parent, f"{name}-{os.getpid()}"):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise InvariantError("the names for a run folder ended")


def _candidates(parent: Path, stem: str) -> Iterator[Path]:
    yield parent / stem
    number = 2
    while True:
        yield parent / f"{stem}-{number}"
        number += 1


def _stat(pid: int) -> tuple[bytes, int]:
    """Return state and start time of a process; raise ProcessLookupError if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        raise ProcessLookupError(pid) from error
    # The name, in parentheses, may contain anything; the state and 18 more fields follow it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0], int(fields[19])
