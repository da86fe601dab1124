# SPDX-License-Identifier: GPL-2.0-or-later
"""The run folders under the state directory, those of ended VMs among them, to list and to remove."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.runs.run_dir import VmInfo, claimed_by, load_run, runs_dir


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A folder; ``info`` is None if its VM never started.

    ``is_link``: the folder is one of the user's choice, and only the link to it is ours.
    """

    path: Path
    info: VmInfo | None
    is_link: bool
    in_use: bool
    changed_s: float  # wall clock

    @property
    def age_s(self) -> float:
        return max(time.time() - self.changed_s, 0.0)

    @property
    def size_bytes(self) -> int:
        """What its files take on disk."""
        if self.is_link:
            return 0
        return sum(_storage_bytes(path) for path in self.path.rglob("*"))

    def remove(self) -> None:
        """Remove it; raise ConfigError if it is in use, or if it cannot be removed."""
        if self.in_use:
            raise ConfigError(f"{self.path.name} is running", hint="`cvmlab stop` ends it")
        try:
            if self.is_link:
                self.path.unlink()
            else:
                shutil.rmtree(self.path)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be removed: {error.strerror}") from error


def _storage_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:  # a VM that runs has just removed it
        return 0


def kept_runs(where: Path | None = None) -> list[KeptRun]:
    """List all run folders, the one that changed longest ago first."""
    folder = where or runs_dir()
    listed = list(folder.iterdir()) if folder.is_dir() else []
    paths = (path for path in listed if path.is_dir() or path.is_symlink())
    return sorted(map(_kept, paths), key=lambda run: run.changed_s)


def _kept(path: Path) -> KeptRun:
    found = load_run(path)
    owner = claimed_by(path) if found is None else found.info.controller
    in_use = (found is not None and found.running) or (owner is not None and owner.alive)
    return KeptRun(
        path=path,
        info=None if found is None else found.info,
        is_link=path.is_symlink(),
        in_use=in_use,
        changed_s=path.lstat().st_mtime,
    )


def named(name: str, where: Path | None = None) -> KeptRun:
    """Return the run folder *name*, as `cvmlab runs list` shows it; raise ConfigError."""
    runs = {run.path.name: run for run in kept_runs(where)}
    path = Path(name)
    if "/" in name and path.absolute().parent == (where or runs_dir()):
        name = path.name
    if "/" in name:
        raise ConfigError(
            f"{name} is not in {where or runs_dir()}", hint="remove a folder of your own yourself"
        )
    return runs[choose("run folder", name, runs)]
