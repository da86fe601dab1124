# SPDX-License-Identifier: GPL-2.0-or-later
"""A BootSpec as a document, and back.  Pure.

A file of the snapshot's own is ``{"file": NAME}``, any other ``{"path": PATH}``.  The rows of
architecture and profiles are found again by their names.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cvmlab.machine.spec import BootSpec
from cvmlab.profiles.architecture import ARCHITECTURES
from cvmlab.snapshots.manifest import FIRMWARE, INITRD, KERNEL


_ARCHITECTURE = "architecture"
_ROWS = frozenset({_ARCHITECTURE, "profiles"})
_OTHER_VERSION = "it is no description of a {} of this version"


def boot_files(spec: BootSpec) -> dict[Path, str]:
    """Return the files that QEMU reads when the machine starts, each with the name of its copy."""
    firmware = spec.firmware if isinstance(spec.firmware, Path) else None
    named = ((spec.kernel, KERNEL), (spec.initrd, INITRD), (firmware, FIRMWARE))
    return {path: name for path, name in named if path is not None}


class _UnreadableError(Exception):
    pass


def to_document(spec: BootSpec, own_files: Mapping[Path, str]) -> dict[str, Any]:
    """Return *spec* as a document; *own_files* names the files that are copied with it."""
    return {_ARCHITECTURE: spec.architecture.name} | {
        field.name: _encode(getattr(spec, field.name), own_files)
        for field in fields(spec)
        if field.name not in _ROWS
    }


def _encode(value: Any, own_files: Mapping[Path, str]) -> Any:
    match value:
        case Enum():
            return value.value
        case Path() if value in own_files:
            return {"file": own_files[value]}
        case Path():
            return {"path": str(value.absolute())}
        case tuple():
            return [_encode(item, own_files) for item in value]
        case _ if is_dataclass(value):
            return {
                field.name: _encode(getattr(value, field.name), own_files)
                for field in fields(value)
            }
        case _:
            return value


def from_document(document: Mapping[str, Any], folder: Path) -> BootSpec:
    """Return the BootSpec of a document whose own files are in *folder*.

    :raise ValueError: a field is missing, unknown or makes no sense.
    """
    said = dict(document or {})
    row = ARCHITECTURES.get(str(said.pop(_ARCHITECTURE, "")))
    if row is None:
        raise ValueError(_OTHER_VERSION.format(BootSpec.__name__))
    spec: BootSpec = _object(BootSpec, said, folder, _ROWS)
    return replace(spec, architecture=row)


def _object(
    kind: Any, document: object, folder: Path, omitted: frozenset[str] = frozenset()
) -> Any:
    wanted = {field.name for field in fields(kind)} - omitted
    if not isinstance(document, Mapping) or set(document) != wanted:
        raise ValueError(_OTHER_VERSION.format(kind.__name__))
    hints = get_type_hints(kind)
    values = {}
    for name in sorted(wanted):
        try:
            values[name] = _decode(hints[name], document[name], folder)
        except _UnreadableError as error:
            raise ValueError(f"{name} makes no sense: {document[name]!r}") from error
    return kind(**values)


def _decode(hint: Any, value: Any, folder: Path) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return _one_of(get_args(hint), value, folder)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise _UnreadableError
        return tuple(_decode(get_args(hint)[0], item, folder) for item in value)
    if hint is Path:
        return _path(value, folder)
    if is_dataclass(hint):
        return _object(hint, value, folder)
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise _UnreadableError from error
    if type(value) is not hint:
        raise _UnreadableError
    return value


def _one_of(hints: tuple[Any, ...], value: Any, folder: Path) -> Any:
    if value is None and type(None) in hints:
        return None
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return _decode(hint, value, folder)
        except _UnreadableError:
            continue
    raise _UnreadableError


def _path(value: Any, folder: Path) -> Path:
    match value:
        case {"file": str(name)} if "/" not in name:
            return folder / name
        case {"path": str(path)} if path.startswith("/"):
            return Path(path)
        case _:
            raise _UnreadableError
