# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents that people write: an unknown key is an error with its path and the nearest known key.

msgspec checks types, but it does not suggest a key, and does not name the entry of a table of tables
that an error is in.  Pure.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe


T = TypeVar("T")

# What a parser raises for text that is no document: nesting too deep for it is no defect of ours.
NO_DOCUMENT = (ValueError, msgspec.MsgspecError, RecursionError)
_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?")


def text_of(path: Path) -> str:
    """Return the text of a document; raise OSError, ValueError, or ConfigError for a device."""
    if path.is_char_device() or path.is_block_device():
        raise ConfigError(f"{path} is a device, and has no end", hint="give the path of a file")
    return path.read_text(encoding="utf-8")


def encoded(value: object) -> bytes:
    """Return *value* as JSON.  What is not UTF-8 in it, such as a path, is shown as in a report."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_fit(msgspec.to_builtins(value)))


def _fit(value: Any) -> Any:
    match value:
        case str():
            return safe(value)
        case list() | tuple():
            return [_fit(item) for item in value]
        case dict():
            return {key: _fit(item) for key, item in value.items()}
        case _:
            return value


def read(document: object, kind: type[T], *, where: str) -> T:
    """Return *document*, from TOML or JSON, as a *kind*; raise ConfigError.  *where* names the file."""
    tables = list(_structs(document, inspect.type_info(kind), ""))
    for path, table, node in tables:
        known = [field.encode_name for field in node.fields]
        for key in table:
            choose(f"{where}: {path}" if path else where, key, known)
    for path, table, node in reversed(tables):
        _convert(table, node.cls, where, path)
    return _convert(document, kind, where, "")


def _structs(
    value: object, node: inspect.Type, path: str
) -> Iterator[tuple[str, dict[str, Any], inspect.StructType]]:
    """Yield every table of *value* that has a fixed set of keys, innermost last."""
    match node, value:
        case inspect.StructType(), dict():
            yield path, value, node
            for field in node.fields:
                if field.encode_name in value:
                    name = field.encode_name
                    yield from _structs(value[name], field.type, f"{path}.{name}".lstrip("."))
        case inspect.DictType(), dict():
            for key, item in value.items():
                yield from _structs(item, node.value_type, f"{path}.{key}".lstrip("."))
        case ((inspect.ListType() | inspect.VarTupleType()), list()):
            for number, item in enumerate(value, 1):
                yield from _structs(item, node.item_type, f"{path} {number}")
        case inspect.UnionType(), _:
            for option in node.types:
                yield from _structs(value, option, path)
        case _:
            return


def _convert(value: object, kind: type[T], where: str, path: str) -> T:
    # A bare number may stand for text, as in max-faults = 0: the field's type accepts both.
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _AT.fullmatch(str(error))
        what, at = (found["what"], found["path"] or "") if found else (str(error), "")
        place = ": ".join(part for part in (where, ".".join(p for p in (path, at) if p)) if part)
        raise ConfigError(f"{place}: {what[:1].lower()}{what[1:]}".replace("`", "")) from error
