# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder of a matrix: what has been run is there, so that only the rest is run again.

``matrix.json`` is written when a run has ended; ``record.json`` says from the start which document
and which shard it is.  Each cell has a folder of its own, ``cells/NNN``, with what the boot left
and, once it has a verdict, ``cell.json``: written whole or not at all.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, final

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.verdict import CellResult, cell_from_json, to_json
from cvmlab.runs.run_dir import runs_dir


_RECORD, _ENDED = "record.json", "matrix.json"
_STATE = (_ENDED, "cells")
_OURS = (_RECORD, *_STATE, "junit.xml", "matrix.tap", "matrix.md")
_BEFORE = ".before"  # holds the state of the run before, until this one has a verdict


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Which cells belong here.  ``shard`` is "1/1" for all of them."""

    name: str
    digest: str
    shard: str
    cells: tuple[Cell, ...]  # of the whole document
    mine: tuple[int, ...]  # numbers of this shard's


def default_place(name: str, digest: str, shard: str) -> Path:
    """Return where a matrix is kept if nobody says: another place for another document."""
    part = "" if shard == "1/1" else f"-{shard.replace('/', 'of')}"
    return runs_dir().parent / "matrix" / f"{name[:24]}-{digest[:8]}{part}"


@final
class Folder:
    """A folder that this process alone writes to; use open()."""

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.record = record

    @classmethod
    @contextmanager
    def open(cls, path: Path, record: Record, *, fresh: bool) -> Iterator[Self]:
        """Make or find the folder; raise ConfigError if it is another matrix's, or in use.

        A run that was interrupted goes on; one that has ended, and one that is to be *fresh*,
        begins anew.
        """
        with _written(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("w")
        with lock:
            _lock(lock.fileno(), path)
            self = cls(path.absolute(), record)
            self._begin(fresh=fresh)
            try:
                yield self
            finally:
                self._settle()

    def _begin(self, *, fresh: bool) -> None:
        self._settle()  # for a run that was killed
        self._require_ours()
        ended = (self.path / _ENDED).exists()
        before = _record(self.path)
        if before is not None and not (fresh or ended) and before != self.record:
            raise ConfigError(
                f"{self.path} has an unfinished run of another matrix or shard",
                hint="--fresh discards it; --run-dir chooses another folder",
            )
        with _written(self.path):
            self._clear(everything=fresh or ended)
        _write(self.path / _RECORD, to_json(self.record))

    def _require_ours(self) -> None:
        """Raise ConfigError if the run would replace what no matrix has left."""
        taken = [name for name in _OURS if (self.path / name).exists()]
        if taken and _record(self.path) is None:
            raise ConfigError(
                f"{self.path} has a {taken[0]} that is not of a matrix, and would be replaced",
                hint="choose an empty folder with --run-dir",
            )

    def _clear(self, *, everything: bool) -> None:
        if everything:
            aside = self.path / _BEFORE
            aside.mkdir()
            for name in (*_STATE, _RECORD):
                if (self.path / name).exists():
                    (self.path / name).rename(aside / name)
        (self.path / "cells").mkdir(exist_ok=True)

    def _settle(self) -> None:
        """Forget the run before this one, or bring it back if this one has come to no verdict."""
        aside = self.path / _BEFORE
        if not aside.is_dir():
            return
        if not (known_files(self.path) or (self.path / _ENDED).exists()):
            shutil.rmtree(self.path / "cells", ignore_errors=True)
            for kept in aside.iterdir():
                kept.replace(self.path / kept.name)
        shutil.rmtree(aside, ignore_errors=True)

    def of(self, cell: Cell) -> Path:
        """Return the folder of *cell*, empty but for what an earlier, unfinished run of it left."""
        folder = self.path / "cells" / cell.folder
        with _written(folder):
            folder.mkdir(exist_ok=True)
        return folder

    def keep(self, result: CellResult) -> None:
        """Remember a verdict: the cell is not run again."""
        _write(self.path / "cells" / f"{result.number:03}" / "cell.json", to_json(result))

    def known(self) -> dict[int, CellResult]:
        """Return the verdicts that are there."""
        found = known(self.path)
        return {number: found[number] for number in self.record.mine if number in found}

    def write(self, files: Iterable[tuple[str, str]]) -> None:
        """Write the summaries; the last one says that the run has ended."""
        for name, content in files:
            _write(self.path / name, content)


def known(path: Path) -> dict[int, CellResult]:
    """Return the verdicts in a folder, by the number of the cell."""
    found = [cell_from_json(file.read_bytes(), str(file)) for file in known_files(path)]
    return {cell.number: cell for cell in found}


def known_files(path: Path) -> list[Path]:
    """Return the files of the verdicts in a folder."""
    return sorted(path.glob("cells/*/cell.json"))


def read_record(path: Path) -> Record:
    """Return what a folder holds; raise ConfigError if it is no matrix's."""
    record = _record(path)
    if record is None:
        raise ConfigError(
            f"{path} is not the folder of a matrix", hint="give the --run-dir of each shard"
        )
    return record


def _record(path: Path) -> Record | None:
    try:
        return msgspec.json.decode((path / _RECORD).read_bytes(), type=Record)
    except (OSError, *NO_DOCUMENT):
        return None


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"a matrix is running in {path}", hint="wait for it, or choose another --run-dir"
        ) from error


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Report a disk error as one about the folder that was chosen."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path} cannot be written: {error.strerror}",
            hint="choose another folder with --run-dir",
        ) from error


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    with _written(path), fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with _written(path):
        fresh.replace(path)
