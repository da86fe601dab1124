# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the file of a matrix, and those it extends, and tell when it is another one."""

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cvmlab.base.documents import NO_DOCUMENT, read, text_of
from cvmlab.base.errors import ConfigError
from cvmlab.images import recipes
from cvmlab.machine.option import Form, ValueKind
from cvmlab.machine.option_rows import having
from cvmlab.matrix.cells import Cell, expand
from cvmlab.matrix.document_schema import Matrix, merge, parse


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]*")
_FORMAT = 1  # of the folder; another number and nothing is resumed
_FILE_OPTIONS = tuple(
    f"{option.label}="
    for option in having(Form.MATRIX)
    if option.kind in (ValueKind.FILE, ValueKind.DISK, ValueKind.PROGRAM)
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document with its cells.  ``digest`` changes with anything that a cell boots."""

    matrix: Matrix
    cells: tuple[Cell, ...]
    digest: str


def load(path: Path) -> Loaded:
    """Read *path* and what it extends; raise ConfigError for the first thing that is wrong."""
    matrix = read(_raw(path, ()), Matrix, where=str(path))
    if not _NAME.fullmatch(matrix.name):
        raise ConfigError(
            f"{path}: name {matrix.name!r} cannot name a folder",
            hint="use letters, digits, spaces, dots, - and _, a letter or digit first",
        )
    try:
        cells = expand(
            matrix, {name: image.architecture for name, image in recipes.load().image.items()}
        )
    except ConfigError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error
    try:
        return Loaded(matrix, cells, _digest(cells))
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{path}: the path of a file is not UTF-8", hint="rename it, or the folder it is in"
        ) from error


def _raw(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    where = path.resolve()
    if where in above:
        raise ConfigError(f"{path} extends itself", hint="remove one `extends` from the cycle")
    try:
        raw = tomllib.loads(text_of(path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="give the path of a matrix file"
        ) from error
    except NO_DOCUMENT as error:
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
    """Return size and age of the file that *word* names: a rebuilt kernel makes another matrix."""
    if not word.startswith(_FILE_OPTIONS):
        return []
    try:
        status = Path(word.partition("=")[2]).stat()
    except OSError:
        return []  # the boot will say so
    return [status.st_size, status.st_mtime_ns]
