# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``@pytest.mark.cvm(...)`` asks for: each combination of its lists is a cell.  Pure.

    @pytest.mark.cvm(coco=["generic", "tdx"], image="debian")     cells generic-debian, tdx-debian

A list is a choice of several values, each of which makes a cell; a tuple is one value.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import PurePath
from types import MappingProxyType

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError


# Always part of a cell's name, in this order; other options are if there is a choice of them.
_NAMING = ("coco", "image")


@dataclass(frozen=True, slots=True)
class MarkCell:
    """One combination: what is given to the fixture, and its name in a test's name."""

    id: str = ""
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def merged(marks: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return all options of *marks*, the closest to the test first: the closest says what counts."""
    options: dict[str, object] = {}
    for mark in marks:
        options = {**mark, **options}
    return options


def cells(options: Mapping[str, object], known: Iterable[str]) -> list[MarkCell]:
    """Return a cell for each combination; raise ConfigError for an option not *known*."""
    names = sorted(known)
    for name, value in options.items():
        choose("the mark cvm", name, names)
        if value == []:
            raise ConfigError(f"the mark cvm: {name} has no value to choose from")
    choices = {
        name: value if isinstance(value, list) else [value] for name, value in options.items()
    }
    combinations = [
        dict(zip(choices, values, strict=True)) for values in product(*choices.values())
    ]
    return list(_distinct(MarkCell(_id(values, choices), values) for values in combinations))


def _id(values: Mapping[str, object], choices: Mapping[str, list[object]]) -> str:
    first = [name for name in _NAMING if name in values]
    rest = [name for name, several in choices.items() if len(several) > 1 and name not in first]
    return "-".join(_word(name, values[name]) for name in (*first, *rest)) or "cvm"


def _word(name: str, value: object) -> str:
    if name == "cpus":
        return f"{value}cpus"
    if isinstance(value, PurePath) or (isinstance(value, str) and "/" in value):
        return PurePath(value).name
    return str(value).replace(" ", "_")


def _distinct(found: Iterable[MarkCell]) -> Iterator[MarkCell]:
    """Give cells of one name, such as kernels of one file name in two folders, a number each."""
    seen: dict[str, int] = {}
    for cell in found:
        seen[cell.id] = seen.get(cell.id, 0) + 1
        number = seen[cell.id]
        yield cell if number == 1 else MarkCell(f"{cell.id}-{number}", cell.options)
