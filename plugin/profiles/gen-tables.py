#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile the tables of a technology: ``gen-tables.py (c|json) FOLDER > OUT``.

FOLDER (tdx, sev) has one TOML document for each topic.  ``c`` writes arrays of the rows that
tables.h declares; ``json`` writes every row with its source in full, for tests to walk.

Needs only the standard library of Python 3.11, because it also runs inside QEMU's build.  It is
one file: an import would leave compiled Python in a folder that QEMU's build copies.
A word becomes an enumerator of tables.h, and a kind of row fills a struct there.
"""

import json
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any


Row = dict[str, Any]
Documents = Mapping[str, Mapping[str, Any]]

TEXTS = ("name", "note", "deviation", "source")
MODEL_KEYS = {"product", "profiles", "cpu", "set", "removed", "source"}


class TablesError(Exception):
    """A document says something that is not a row of its table."""


@dataclass(frozen=True)
class Column:
    """What a cell may hold: a word of *words*, a list of them (*many*), or a number."""

    words: tuple[str, ...] = ()
    bits: int = 32
    many: bool = False
    default: int | str | None = None  # None: the row must say it
    like: str = ""  # or else the cell of this column

    def check(self, where: str, value: Any) -> None:
        if self.words:
            said = value if self.many else [value]
            if not isinstance(said, list) or any(word not in self.words for word in said):
                raise TablesError(f"{where}: {value!r} is not of {', '.join(self.words)}")
        elif type(value) is not int or not 0 <= value < 1 << self.bits:
            raise TablesError(f"{where}: {value!r} is not a number of {self.bits} bits")

    def in_c(self, value: Any) -> str:
        if not self.words:
            return f"{value:#x}" + ("ull" if self.bits == 64 else "")
        return " | ".join(map(enumerator, value if self.many else [value])) or "0"

    def rank(self, value: Any) -> int:
        """Return the place of *value* in the order of rows."""
        return self.words.index(value) if self.words else int(value)


@dataclass(frozen=True)
class Kind:
    """A kind of row: its struct in tables.h, its columns, and the ranges that are its key."""

    struct: str
    columns: Mapping[str, Column]
    key: tuple[tuple[str, str], ...]


def enumerator(name: str) -> str:
    return "TABLE_" + name.upper().replace("-", "_")


def word(*words: str, default: str | None = None) -> Column:
    return Column(words, default=default)


# Features of a guest; `when` names the one that a row needs.
WHEN = (
    *("always", "perfmon", "perfmon-metrics", "pt", "cet", "uli", "lbr", "pks", "xfd", "tsx"),
    *("umwait", "dca", "tme", "mktme", "tsc-deadline", "monitor", "avx", "avx512", "pku", "amx"),
    *("key-locker", "spec-ctrl", "flush-cmd", "tsc-aux", "xss"),
)
MSR = (
    *("native", "exception", "gp", "value"),
    # Handlers
    *("arch-capabilities", "misc-enable", "perf-capabilities", "debugctl", "efer", "xss", "tsc"),
)
HOST_MSR = ("refuse", "run", "value", "store", "ignore", "apic", "mce", "tsc")
BIT = ("owned", "gp", "exception", "ignore")
EXIT = ("exception", "native", "host", "stop")
STATUS = ("one", "zero", "vmsa")
INSTRUCTION = ("exception", "ud", "gp", "native", "table", "host", "stop")
GHCB_FIELDS = Column(("rax", "rbx", "rcx", "rdx", "cpl", "scratch"), many=True)

NUMBER, OPTIONAL, LONG = Column(), Column(default=0), Column(bits=64, default=0)
ALWAYS = word(*WHEN, default="always")
RANGE = {"first": NUMBER, "last": Column(like="first")}
LEAF = {"leaf": NUMBER, "subleaf": OPTIONAL, "reg": word("eax", "ebx", "ecx", "edx")}
BY_RANGE = (("first", "last"),)
BY_LEAF = (("leaf", "leaf"), ("subleaf", "subleaf"), ("reg", "reg"))
BY_LEAF_MASK = (*BY_LEAF, ("mask", "mask"))

KINDS: Mapping[str, Kind] = {
    "msr": Kind(
        "TableMsr",
        RANGE
        | {"read": word(*MSR), "write": word(*MSR), "when": ALWAYS}
        | {"otherwise": word(*MSR, default="gp"), "value": LONG},
        BY_RANGE,
    ),
    "host-msr": Kind(
        "TableHostMsr",
        RANGE
        | {"read": word(*HOST_MSR), "write": word(*HOST_MSR), "value": LONG}
        | {"mask": Column(bits=64, default=(1 << 64) - 1)},
        BY_RANGE,
    ),
    "arch-capability": Kind(
        "TableArchCapability",
        RANGE
        | {"td": word("one", "zero", "allowed", "forced", "tsx")}
        | {"shown": word("yes", "no", default="no")},
        BY_RANGE,
    ),
    "cpuid-leaf": Kind(
        "TableCpuidLeaf",
        RANGE
        | {"subleaf": OPTIONAL, "last-subleaf": Column(default=0xFFFFFFFF)}
        | {"answer": word("masked", "zero", "exception", "last-leaf"), "when": ALWAYS},
        (*BY_RANGE, ("subleaf", "last-subleaf")),
    ),
    "cpuid-mask": Kind(
        "TableCpuidMask",
        LEAF
        | {"zero": OPTIONAL, "one": OPTIONAL, "need": OPTIONAL, "vmm": OPTIONAL}
        | {"own": OPTIONAL},
        BY_LEAF,
    ),
    "cpuid-feature": Kind(
        "TableCpuidFeature",
        LEAF | {"mask": NUMBER, "when": word(*WHEN)},
        BY_LEAF_MASK,
    ),
    "cpuid-policy": Kind(
        "TableCpuidPolicy",
        LEAF
        | {"rule": word("subset", "at-most", "equal", "unchecked")}
        | {"mask": NUMBER, "value": NUMBER},
        BY_LEAF_MASK,
    ),
    "control-bit": Kind(
        "TableControlBit",
        {"reg": word("cr0", "cr4"), **RANGE, "set": word(*BIT), "clear": word(*BIT)}
        | {"initial": OPTIONAL, "when": ALWAYS, "otherwise": word(*BIT, default="gp")},
        (("reg", "reg"), *BY_RANGE),
    ),
    "xfam-bit": Kind(
        "TableXfamBit",
        {"bit": NUMBER, "td": word("one", "allowed", "zero"), "reg": word("xcr0", "xss")}
        | {"group": OPTIONAL, "needs": OPTIONAL, "offset": OPTIONAL, "size": OPTIONAL}
        | {"emulated": word("yes", "no")},
        (("bit", "bit"),),
    ),
    "instruction": Kind(
        "TableInstruction",
        RANGE
        | {"answer": word(*INSTRUCTION), "when": ALWAYS}
        | {"otherwise": word(*INSTRUCTION, default="gp")},
        BY_RANGE,
    ),
    "exit": Kind("TableExit", RANGE | {"es": word(*EXIT), "snp": word(*EXIT)}, BY_RANGE),
    "check": Kind(
        "TableCheck",
        {"instruction": word("pvalidate", "vmmcall", "vmgexit"), "step": NUMBER}
        | {"result": word("status", "gp", "ud", "pf", "exception", "stop"), "value": OPTIONAL},
        (("instruction", "instruction"), ("step", "step")),
    ),
    "status-bit": Kind(
        "TableStatusBit",
        {"bit": NUMBER, "sev": word(*STATUS), "es": word(*STATUS), "snp": word(*STATUS)},
        (("bit", "bit"),),
    ),
    "ghcb-request": Kind(
        "TableGhcbRequest",
        {"request": NUMBER, "response": OPTIONAL, "level": word("es", "snp")}
        | {"answer": word("run", "stop")},
        (("request", "request"),),
    ),
    "ghcb-exit": Kind(
        "TableGhcbExit",
        RANGE | {"needs": GHCB_FIELDS, "level": word("es", "snp"), "answer": word("run", "stop")},
        BY_RANGE,
    ),
}


def cited(where: str, row: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Return the source of *row* in full: ``source = "key rest"`` names one of [sources]."""
    key, _, rest = str(row.get("source", "")).partition(" ")
    if key not in sources:
        raise TablesError(f"{where}: source {key!r} is not one of [sources]")
    return f"{sources[key]}{', ' if rest else ''}{rest}"


def check_texts(where: str, row: Mapping[str, Any]) -> None:
    for text in TEXTS:
        if text in row and (not isinstance(row[text], str) or not row[text]):
            raise TablesError(f"{where}: {text} must be a text")


def whole(where: str, kind: Kind, row: Mapping[str, Any]) -> Row:
    """Return the cells of *row* in the order of the columns, defaults filled in."""
    unknown = row.keys() - kind.columns.keys() - set(TEXTS)
    if unknown:
        raise TablesError(f"{where}: unknown key {min(unknown)!r}")
    cells: Row = {}
    for name, column in kind.columns.items():
        default = cells.get(column.like, column.default)
        cells[name] = row.get(name, default)
        if cells[name] is None:
            raise TablesError(f"{where}: {name!r} is missing")
        column.check(f"{where}, {name}", cells[name])
    return cells


def span(kind: Kind, row: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the first and the last of each part of the key."""
    columns = kind.columns
    return [(columns[a].rank(row[a]), columns[b].rank(row[b])) for a, b in kind.key]


def check_order(where: str, kind: Kind, rows: list[Row]) -> None:
    """Raise if a range ends before it starts, if two overlap, or if they are not in order."""
    spans = [span(kind, row) for row in rows]
    for index, one in enumerate(spans):
        if any(last < first for first, last in one):
            raise TablesError(f"{where} row {index}: it ends before it starts")
    for (i, one), (j, two) in combinations(enumerate(spans), 2):
        if all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one, two, strict=True)):
            raise TablesError(f"{where}: rows {i} and {j} overlap")
        if j == i + 1 and [a[0] for a in one] > [b[0] for b in two]:
            raise TablesError(f"{where}: rows {i} and {j} are not in order")


def model(where: str, row: Mapping[str, Any]) -> Row:
    """Return *row*, a model of ``-cpu``: the controller reads it, C does not."""
    if set(row) != MODEL_KEYS:
        raise TablesError(f"{where}: the keys must be {', '.join(sorted(MODEL_KEYS))}")
    seen: set[str] = set()
    for group in row["removed"]:
        if set(group) != {"features", "reason"} or not group["reason"]:
            raise TablesError(f"{where}: removed needs features and a reason")
        twice = seen.intersection(group["features"])
        if twice:
            raise TablesError(f"{where}: {min(twice)!r} is removed twice")
        seen.update(group["features"])
    return dict(row)


def rows_of(where: str, document: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the checked rows of one document by kind, each with its texts; raise TablesError."""
    if set(document) != {"sources", "rows"}:
        raise TablesError(f"{where}: the tables must be [sources] and [rows]")
    found: dict[str, list[Row]] = {}
    for name, rows in document["rows"].items():
        if name not in KINDS and name != "cpu-model":
            raise TablesError(f"{where}: {name!r} is no kind of row")
        found[name] = []
        for index, row in enumerate(rows):
            at = f"{where}, {name} row {index}"
            cells = whole(at, KINDS[name], row) if name in KINDS else model(at, row)
            check_texts(at, row)
            texts = {text: row[text] for text in TEXTS if text in row}
            found[name].append(cells | texts | {"source": cited(at, row, document["sources"])})
        if name in KINDS:
            check_order(f"{where}, {name}", KINDS[name], found[name])
    return found


def tables(documents: Documents) -> dict[str, list[Row]]:
    """Return the rows of all *documents* by kind; raise TablesError."""
    found: dict[str, list[Row]] = {}
    for where, document in documents.items():
        for name, rows in rows_of(where, document).items():
            if name in found:
                raise TablesError(f"{where}: another document has rows of {name!r}, too")
            found[name] = rows
    return found


def array(technology: str, name: str, rows: Iterable[Row]) -> str:
    """Return the C array of the rows of one kind."""
    kind = KINDS[name]
    lines = [f"static const {kind.struct} {technology}_{name.replace('-', '_')}_rows[] = {{"]
    for row in rows:
        cells = (f".{n.replace('-', '_')} = {c.in_c(row[n])}" for n, c in kind.columns.items())
        remark = f" /* {row['name']} */" if "name" in row else ""
        lines.append(f"    {{ {', '.join(cells)} }},{remark}")
    return "\n".join([*lines, "};\n"])


def compile_tables(technology: str, documents: Documents) -> str:
    """Return the C arrays of all *documents* of *technology*; raise TablesError."""
    found = tables(documents)
    arrays = [array(technology, name, rows) for name, rows in found.items() if name in KINDS]
    return "".join([f"/* Generated by gen-tables.py from {technology}. */\n", *arrays])


def read(folder: Path) -> dict[str, Any]:
    """Return the documents of *folder* by file name."""
    documents = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            documents[path.name] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as fault:
            raise TablesError(f"{path.name}: {fault}") from fault
    if not documents:
        raise TablesError("it has no TOML document")
    return documents


def main(argv: list[str]) -> None:
    if len(argv) != 3 or argv[1] not in ("c", "json"):
        sys.exit("usage: gen-tables.py (c|json) FOLDER > OUT")
    folder = Path(argv[2]).resolve()
    try:
        documents = read(folder)
        if argv[1] == "c":
            text = compile_tables(folder.name, documents)
        else:
            text = json.dumps(tables(documents), indent=1) + "\n"
    except TablesError as fault:
        sys.exit(f"gen-tables.py: {folder.name}: {fault}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv)
