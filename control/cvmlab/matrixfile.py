# SPDX-License-Identifier: GPL-2.0-or-later
"""The document of ``cvmlab matrix``: what may be in the file.  Pure.

The structures below are the format; schema/matrix.schema.json is made from them and a test keeps it
up to date: ``python -m cvmlab.matrixfile > control/cvmlab/schema/matrix.schema.json``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from cvmlab.documents import read
from cvmlab.errors import ConfigError


SCHEMA_PATH: Final = Path(__file__).parent / "schema" / "matrix.schema.json"
ALL: Final = "all"

Limit = int | str
Reason = Annotated[str, Meta(description="a sentence; it is shown wherever the cell is")]
_PATHS = ("kernel", "initrd", "share", "user-data", "symbols", "baseline", "qemu")
_NO_FILE = "none"  # initrd = "none": boot without one


class _Document(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="kebab"):
    pass


class Boot(_Document, frozen=True, kw_only=True):
    """Options of ``cvmlab boot``, by their names.  Paths are relative to the file they are in."""

    image: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    disk: tuple[str, ...] | None = None
    disk_interface: str | None = None
    share: str | None = None
    user_data: str | None = None
    exec: str | None = None
    expect: str | None = None
    net: str | None = None
    on_pending: str | None = None
    coco_option: tuple[str, ...] | None = None
    mapgpa: str | None = None
    quotes: bool | None = None
    timeout: Annotated[float, Meta(gt=0, description="seconds until a boot has failed")] | None = (
        None
    )
    max_faults: tuple[Limit, ...] | Limit | None = None
    max_conversions: tuple[Limit, ...] | Limit | None = None
    max_accepts: tuple[Limit, ...] | Limit | None = None
    baseline: Annotated[str | None, Meta(description="a file of `cvmlab baseline`")] = None
    symbols: str | None = None
    qemu: str | None = None
    extra: Annotated[
        tuple[str, ...] | None, Meta(description="words for `cvmlab boot` that are not above")
    ] = None

    def options(self) -> dict[str, Any]:
        """Return what is said here, and not what is left open."""
        own = (field.name for field in msgspec.structs.fields(Boot))
        return {name: value for name in own if (value := getattr(self, name)) is not None}


class Guest(Boot, frozen=True, kw_only=True):
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
        tuple[str, ...], Meta(description="profiles, off; all: everything that is known")
    ] = ("generic",)
    firmware: tuple[str, ...] = ("seabios",)
    on_host_access: tuple[str, ...] = ("deny",)
    cpus: tuple[Annotated[int, Meta(ge=1)], ...] = (1,)
    memory: tuple[str, ...] = ("1G",)


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


class Rule(Boot, frozen=True, kw_only=True):
    """Options for some of the cells, or why they are not run or not relied on."""

    when: When = When()
    unless: When | None = None
    ignore: Reason | None = None
    unstable: Reason | None = None


class Run(_Document, frozen=True, kw_only=True):
    """How the cells are run; the command line goes before it."""

    jobs: Annotated[int, Meta(ge=1, description="guests at a time, at most")] | None = None
    tb_cache: Annotated[str | None, Meta(description="QEMU's translation cache a guest")] = None


class Matrix(_Document, frozen=True, kw_only=True):
    """The whole file."""

    name: str = "matrix"
    extends: Annotated[Words, Meta(description="files that come first, relative to this one")] = ()
    axes: Axes = Axes()
    defaults: Boot = Boot()
    guest: dict[str, Guest] = {}
    rule: tuple[Rule, ...] = ()
    run: Run = Run()


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


def _require_reasons(rule: Rule, where: str) -> None:
    for key in ("ignore", "unstable"):
        if getattr(rule, key) is not None and not getattr(rule, key).strip():
            raise ConfigError(
                f"{where}: {key} has no reason", hint="say why: the reports show it beside the cell"
            )


def _absolute(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    def place(key: str, value: str) -> str:
        return value if key == "initrd" and value == _NO_FILE else str(folder / value)

    made = {key: place(key, value) if key in _PATHS else value for key, value in table.items()}
    if "disk" in made:
        made["disk"] = [str(folder / path) for path in made["disk"]]
    return made


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
