# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents that people write: an unknown key is named with its path and the nearest known one.

msgspec checks types; it stops at the first unknown key without a suggestion, and does not say which
entry of a table of tables it was in.  Pure.
"""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cvmlab.choices import choose
from cvmlab.errors import ConfigError


T = TypeVar("T")

_AT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?")


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
    # A number by itself may be meant as text, as in max-faults = 0: the type says so, not strictness.
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _AT.fullmatch(str(error))
        what, at = (found["what"], found["path"] or "") if found else (str(error), "")
        place = ": ".join(part for part in (where, ".".join(p for p in (path, at) if p)) if part)
        raise ConfigError(f"{place}: {what[:1].lower()}{what[1:]}".replace("`", "")) from error
