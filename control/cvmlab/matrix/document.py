# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the file of a matrix, and those it extends, and tell when it is another one."""

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cvmlab import recipes
from cvmlab.cells import Cell, expand
from cvmlab.documents import read
from cvmlab.errors import ConfigError
from cvmlab.matrixfile import Matrix, merge, parse


_FORMAT = 1  # of the folder; another number and nothing is resumed
_FILE_OPTIONS = ("--kernel=", "--initrd=", "--disk=", "--user-data=", "--baseline=", "--qemu=")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document with its cells.  ``digest`` changes with anything that a cell boots."""

    matrix: Matrix
    cells: tuple[Cell, ...]
    digest: str


def load(path: Path) -> Loaded:
    """Read *path* and what it extends; raise ConfigError for the first thing that is wrong."""
    matrix = read(_raw(path, ()), Matrix, where=str(path))
    try:
        cells = expand(matrix, list(recipes.load().image))
    except ConfigError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error
    return Loaded(matrix, cells, _digest(cells))


def _raw(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    where = path.resolve()
    if where in above:
        raise ConfigError(f"{path} extends itself", hint="take one `extends` out of the circle")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="give the path of a matrix file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    own = parse(raw, where=str(path), folder=where.parent)
    bases = own.get("extends", [])
    whole: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        whole = merge(whole, _raw(path.parent / base, (*above, where)))
    return merge(whole, own)


def _digest(cells: Iterable[Cell]) -> str:
    digest = hashlib.sha256(str(_FORMAT).encode())
    for cell in cells:
        digest.update(msgspec.json.encode([cell, [_stamp(word) for word in cell.words]]))
    return digest.hexdigest()


def _stamp(word: str) -> list[int]:
    """Return size and age of the file that *word* names, for a kernel built anew is another one."""
    if not word.startswith(_FILE_OPTIONS):
        return []
    try:
        status = Path(word.partition("=")[2]).stat()
    except OSError:
        return []  # the boot will say so
    return [status.st_size, status.st_mtime_ns]
