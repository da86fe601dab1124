# SPDX-License-Identifier: GPL-2.0-or-later
"""The document of ``cvmlab matrix``: what may be in the file.  Pure.

The structures below are the format; matrix.schema.json is made from them and a test keeps it
up to date: ``python -m cvmlab.matrix.document_schema > control/cvmlab/matrix/matrix.schema.json``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from cvmlab.base.documents import read
from cvmlab.base.errors import ConfigError
from cvmlab.machine.option import PATHS, Form, Option, ValueKind
from cvmlab.machine.option_rows import having
from cvmlab.machine.options import sentence
from cvmlab.machine.spec import BootSpec
from cvmlab.memory.ranges import format_size


SCHEMA_PATH: Final = Path(__file__).with_name("matrix.schema.json")
ALL: Final = "all"

Limit = int | str
Reason = Annotated[str, Meta(description="a sentence; reports show it beside the cell")]
_PATHS: Final = {option.word: option for option in having(Form.MATRIX) if option.kind in PATHS}
_DEFAULT: Final = BootSpec()
_NO_FILE = "none"  # initrd = "none": boot without one


class _Document(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="kebab"):
    pass


_TYPES: Final[Mapping[ValueKind, Any]] = {
    ValueKind.SWITCH: bool,
    ValueKind.NUMBER: int,
    ValueKind.SECONDS: Annotated[float, Meta(gt=0)],
}


class _Options(_Document, frozen=True, kw_only=True):
    def options(self) -> dict[str, Any]:
        """Return what is said here, and not what is left open."""
        own = (field.name for field in msgspec.structs.fields(Boot))
        return {name: value for name in own if (value := getattr(self, name)) is not None}


def _field(option: Option) -> tuple[str, Any, None]:
    one = Limit if option.kind is ValueKind.LIMIT else _TYPES.get(option.kind, str)
    kind = tuple[one, ...] if option.repeatable else one  # type: ignore[valid-type]
    if option.kind is ValueKind.LIMIT:
        kind = kind | one
    return option.name, Annotated[kind, Meta(description=sentence(option))] | None, None


if TYPE_CHECKING:

    class Boot(_Options, frozen=True, kw_only=True):
        """Options of ``cvmlab boot``, by their names.  Paths are relative to the file they are in."""

else:
    Boot = msgspec.defstruct(
        "Boot",
        [
            *map(_field, having(Form.MATRIX)),
            (
                "extra",
                Annotated[tuple[str, ...], Meta(description="other words for `cvmlab boot`")]
                | None,
                None,
            ),
        ],
        bases=(_Options,),
        namespace={
            "__doc__": "Options of `cvmlab boot`, by name. Paths are relative to the file they are in."
        },
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
        rename="kebab",
    )


class NamedGuest(Boot, frozen=True, kw_only=True):
    """What boots, under a name of its own."""

    extends: Annotated[str | None, Meta(description="another guest, whose options come first")] = (
        None
    )


class Axes(_Document, frozen=True, kw_only=True):
    """The cells are all combinations."""

    guest: Annotated[
        tuple[str, ...], Meta(description="names of [guest.NAME], or of `cvmlab images`")
    ] = ()
    coco: Annotated[
        tuple[str, ...], Meta(description="profiles, or off; all means every one of them")
    ] = (_DEFAULT.coco,)
    firmware: tuple[str, ...] = (str(_DEFAULT.firmware),)
    on_host_access: tuple[str, ...] = (str(_DEFAULT.on_host_access),)
    cpus: tuple[Annotated[int, Meta(ge=1)], ...] = (_DEFAULT.cpus,)
    memory: tuple[str, ...] = (format_size(_DEFAULT.memory_bytes),)


Words = tuple[str, ...] | str


class When(_Document, frozen=True, kw_only=True):
    """A condition: each axis named here has one of the values."""

    guest: Words | None = None
    coco: Words | None = None
    firmware: Words | None = None
    on_host_access: Words | None = None
    cpus: tuple[int, ...] | int | None = None
    memory: Words | None = None

    def conditions(self) -> dict[str, tuple[Any, ...]]:
        """Return the values allowed on each axis that is named."""
        said = {field.name: getattr(self, field.name) for field in msgspec.structs.fields(When)}
        return {
            axis: value if isinstance(value, tuple) else (value,)
            for axis, value in said.items()
            if value is not None
        }


class CellRule(Boot, frozen=True, kw_only=True):
    """Options for some of the cells, or why they are not run or not relied on."""

    when: When = When()
    unless: When | None = None
    ignore: Reason | None = None
    unstable: Reason | None = None


class RunOptions(_Document, frozen=True, kw_only=True):
    """How the cells are run; the command line goes before it."""

    jobs: Annotated[int, Meta(ge=1, description="most guests that run at the same time")] | None = (
        None
    )
    tb_cache: Annotated[
        str | None, Meta(description="tb-cache of cells for which nothing else says it")
    ] = None


class Matrix(_Document, frozen=True, kw_only=True):
    """The whole file."""

    name: str = "matrix"
    extends: Annotated[Words, Meta(description="files that come first, relative to this one")] = ()
    axes: Axes = Axes()
    defaults: Boot = Boot()
    guest: dict[str, NamedGuest] = {}
    rule: tuple[CellRule, ...] = ()
    run: RunOptions = RunOptions()


def parse(raw: Mapping[str, Any], *, where: str, folder: Path) -> dict[str, Any]:
    """Check one file by itself and return it with its paths made absolute; raise ConfigError."""
    document = read(raw, Matrix, where=where)
    for number, rule in enumerate(document.rule, 1):
        _require_reasons(rule, f"{where}: rule {number}")
    tables = [raw.get("defaults", {}), *raw.get("guest", {}).values(), *raw.get("rule", ())]
    made = {id(table): _absolute(table, folder) for table in tables}
    whole = dict(raw)
    if "defaults" in raw:
        whole["defaults"] = made[id(raw["defaults"])]
    if "guest" in raw:
        whole["guest"] = {name: made[id(table)] for name, table in raw["guest"].items()}
    if "rule" in raw:
        whole["rule"] = [made[id(table)] for table in raw["rule"]]
    return whole


def _require_reasons(rule: CellRule, where: str) -> None:
    for key in ("ignore", "unstable"):
        if getattr(rule, key) is not None and not getattr(rule, key).strip():
            raise ConfigError(
                f"{where}: {key} has no reason", hint="say why; reports show it beside the cell"
            )


def _absolute(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    def place(key: str, value: str) -> str:
        return value if key == "initrd" and value == _NO_FILE else str(folder / value)

    def placed(key: str, value: Any) -> Any:
        if key not in _PATHS:
            return value
        return [place(key, one) for one in value] if _PATHS[key].repeatable else place(key, value)

    return {key: placed(key, value) for key, value in table.items()}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return *base* with *over* on it: tables are merged, rules added behind, the rest replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        elif key == "rule":
            merged[key] = [*merged.get(key, ()), *value]
        else:
            merged[key] = value
    return merged


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "the file of `cvmlab matrix`",
        **msgspec.json.schema(Matrix),
    }


def schema_text() -> str:
    """Return the schema as it is in the repository."""
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
