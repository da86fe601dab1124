# SPDX-License-Identifier: GPL-2.0-or-later
"""Run folders: what a VM leaves behind, and how another terminal finds it.

A folder holds ``cmdline``, ``console.log``, ``qemu.log``, ``qmp.jsonl``, ``events.bin``,
``qmp.sock``, ``vm.json`` and, in the end, ``result.json``.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self, final

import msgspec

from cvmlab.errors import ConfigError


# struct sockaddr_un has room for 108 bytes, the last of them zero.
_SOCKET_PATH_BYTES = 107
_FILES = (
    "cmdline", "console.log", "qemu.log", "qmp.jsonl", "events.bin", "vm.json", "result.json",
)  # fmt: skip
_HINT = "choose another place with --run-dir"


class ProcessId(msgspec.Struct, frozen=True):
    """A process, told from a later one of the same number by its start time (clock ticks)."""

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
    """Numbers of the memory files in the QEMU process, for whoever wants to look at the table."""

    private: int
    shared: int | None
    table: int
    ring: int


class VmInfo(msgspec.Struct, frozen=True):
    """What ``vm.json`` says about a VM; ``files`` is None without restricted memory."""

    name: str
    coco: str
    memory_bytes: int
    created_s: float
    controller: ProcessId
    qemu: ProcessId
    files: MemoryFiles | None


class Run(msgspec.Struct, frozen=True):
    """A run folder that was found, running or stale."""

    path: Path
    info: VmInfo

    @property
    def running(self) -> bool:
        return self.info.qemu.alive

    @property
    def orphaned(self) -> bool:
        """QEMU runs and the controller does not: can only be while the kernel kills it."""
        return self.running and not self.info.controller.alive


@final
class RunDir:
    """The folder of one VM.  A folder of the user's choice is never removed."""

    def __init__(self, path: Path, *, removable: bool) -> None:
        self.path = path
        self._removable = removable

    @classmethod
    def create(cls, name: str, chosen: Path | None = None) -> Self:
        """Make the folder: *chosen*, or a new one under the state directory."""
        try:
            if chosen is not None:
                chosen.mkdir(parents=True, exist_ok=True)
                path, removable = chosen.absolute(), False
                _require_unused(path)
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
        for stale in (*_FILES, self.qmp_socket.name, self.quote_socket.name):
            (path / stale).unlink(missing_ok=True)
        return self

    @property
    def console_log(self) -> Path:
        return self.path / "console.log"

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
    def events(self) -> Path:
        return self.path / "events.bin"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def vm_json(self) -> Path:
        return self.path / "vm.json"

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a small file whole: another process sees the old one or the new one."""
        path = self.path / name
        fresh = path.with_name(f".{name}.new")
        try:
            fresh.write_bytes(text.encode() if isinstance(text, str) else text)
            fresh.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}", hint=_HINT) from error
        return path

    def publish(self, info: VmInfo) -> None:
        """Let ``ps`` and other terminals find this VM."""
        self.write(self.vm_json.name, msgspec.json.encode(info))

    def close(self, *, keep: bool) -> None:
        """Remove the folder, or what is only of use while the VM runs."""
        if self._removable and not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.qmp_socket.unlink(missing_ok=True)
            self.quote_socket.unlink(missing_ok=True)


def _require_unused(path: Path) -> None:
    run = load_run(path)
    if run is not None and run.running:
        raise ConfigError(f"the VM {run.info.name!r} is running in {path}", hint=_HINT)


def runs_dir() -> Path:
    """Return ``$XDG_STATE_HOME/cvmlab/runs``."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cvmlab" / "runs"


def load_run(path: Path) -> Run | None:
    """Read a run folder; None if it is none, or of another version."""
    try:
        info = msgspec.json.decode((path / "vm.json").read_bytes(), type=VmInfo)
    except (OSError, msgspec.DecodeError):
        return None
    return Run(path, info)


def find_runs(where: Path | None = None) -> list[Run]:
    """List run folders, running and stale, oldest first."""
    folder = where or runs_dir()
    paths = folder.iterdir() if folder.is_dir() else iter(())
    runs = [run for path in paths if (run := load_run(path)) is not None]
    return sorted(runs, key=lambda run: run.info.created_s)


def find_running(name: str, where: Path | None = None) -> Run:
    """Return the one running VM called *name*: its name, the name of its folder, or the path."""
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
                f"no VM {name!r} is running{gone}", hint="`cvmlab ps` lists those that are"
            )
        case _:
            folders = ", ".join(run.path.name for run in running)
            raise ConfigError(f"several VMs are called {name!r}", hint=f"say which: {folders}")


def _fresh(name: str) -> Path:
    parent = runs_dir()
    parent.mkdir(parents=True, exist_ok=True)
    for path in _candidates(parent, f"{name}-{os.getpid()}"):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


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
    # The name, in parentheses, may hold anything; the state and 18 more fields follow it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[0], int(fields[19])
