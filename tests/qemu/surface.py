# SPDX-License-Identifier: GPL-2.0-or-later
"""List all that a host can say to QEMU, and what surface.toml says of each.

``python -m tests.qemu.surface [QEMU]`` asks the QEMU that cvmlab has built, or this one, and prints what
is not classed.
"""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cvmlab.qemu.build import qemu_binary
from tests.qemu.plain import PlainQmp, plain_qemu


FILE = Path(__file__).with_name("surface.toml")
KINDS = (
    "qmp", "hmp", "object", "object-property", "device", "device-property", "cpu-property",
    "machine", "machine-property", "option", "option-parameter",
)  # fmt: skip
REACHES = ("nothing", "host", "guarded", "memory", "state", "both")
ANSWERS = ("harmless", "judged", "refused", "checked", "absent", "ours")
_OPTION = re.compile(r"^(-[A-Za-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Class:
    """A table of the file: names or patterns of each kind, and what holds for all of them."""

    reach: str
    answer: str
    why: str
    names: Mapping[str, tuple[str, ...]]


def classes(text: str) -> tuple[Class, ...]:
    """Read the file's *text*."""
    found = []
    for table in tomllib.loads(text)["class"]:
        reach, answer, why = (table.pop(key) for key in ("reach", "answer", "why"))
        assert reach in REACHES, reach
        assert answer in ANSWERS, answer
        assert set(table) <= set(KINDS), table
        found.append(
            Class(reach, answer, why, {kind: tuple(table.get(kind, ())) for kind in KINDS})
        )
    return tuple(found)


def class_of(kind: str, name: str, known: Iterable[Class]) -> Class | None:
    """Return the class that names *name*, or else the first with a pattern for it."""
    by_pattern = None
    for one in known:
        if name in one.names[kind]:
            return one
        if by_pattern is None and any(fnmatchcase(name, p) for p in one.names[kind]):
            by_pattern = one
    return by_pattern


def unclassed(surface: Mapping[str, Iterable[str]], known: Sequence[Class]) -> list[str]:
    """Return what no class names, as ``kind name``."""
    return [
        f"{kind} {name}"
        for kind, names in surface.items()
        for name in sorted(names)
        if class_of(kind, name, known) is None
    ]


def named_twice(known: Iterable[Class]) -> list[str]:
    """Return the names and patterns that stand in the file more than once."""
    count = Counter((kind, name) for one in known for kind in KINDS for name in one.names[kind])
    return [f"{kind} {name}" for (kind, name), times in count.items() if times > 1]


def surface(qemu: Path) -> dict[str, set[str]]:
    """Return all names of each kind that *qemu* has, by asking it."""
    command = [str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]
    with (
        TemporaryDirectory() as folder,
        plain_qemu([*command, "-S"], Path(folder)) as process,
        process.qmp() as qmp,
    ):
        found = dict(_asked(qmp))
        qmp.command("quit")
        process.wait()
    done = subprocess.run(
        [str(qemu), "-help"], capture_output=True, text=True, timeout=20, check=True
    )
    found["option"] = {
        name[0] for line in done.stdout.splitlines() if (name := _OPTION.findall(line))
    }
    return found


def _asked(qmp: PlainQmp) -> Iterator[tuple[str, set[str]]]:
    yield "qmp", {entry["name"] for entry in qmp.command("query-commands")}
    yield "hmp", {*_hmp(qmp, "help"), *_hmp(qmp, "info")}
    objects = _types(qmp, "user-creatable") | {"tcg-accel"}
    yield "object", objects
    yield "object-property", _properties(qmp, "qom-list-properties", objects)
    devices = _types(qmp, "device")
    yield "device", devices
    cpus = _types(qmp, "cpu")
    yield "device-property", _properties(qmp, "device-list-properties", devices - cpus)
    yield "cpu-property", _properties(qmp, "device-list-properties", cpus)
    machines = {entry["name"] for entry in qmp.command("query-machines")}
    yield "machine", machines
    types = {f"{name}-machine" for name in machines}
    yield "machine-property", _properties(qmp, "qom-list-properties", types)
    options: Sequence[Mapping[str, Any]] = qmp.command("query-command-line-options")
    yield (
        "option-parameter",
        {
            f"{option['option']}.{parameter['name']}"
            for option in options
            for parameter in option["parameters"]
        },
    )


def _types(qmp: PlainQmp, parent: str) -> set[str]:
    types = qmp.command("qom-list-types", implements=parent, abstract=False)
    return {entry["name"] for entry in types}


def _properties(qmp: PlainQmp, command: str, types: Iterable[str]) -> set[str]:
    """Return the properties of all *types*; an index in a name is a ``#``."""
    return {
        re.sub(r"\d+", "#", entry["name"])
        for name in types
        for entry in qmp.command(command, typename=name)
    }


def _hmp(qmp: PlainQmp, table: str) -> Iterator[str]:
    """Yield the commands of the human monitor; of info, with that word."""
    text = qmp.command("human-monitor-command", **{"command-line": table})
    for line in text.splitlines():
        # A line that goes on is indented or starts in a bracket.
        if match := re.match(r"((?:info )?[a-z_][a-zA-Z0-9_|?-]*)(?= |$)", line):
            yield match[1]


def main() -> int:
    """Print what is not classed; return 1 if there is any."""
    qemu = Path(sys.argv[1]) if len(sys.argv) > 1 else qemu_binary()
    left = unclassed(surface(qemu), classes(FILE.read_text(encoding="utf-8")))
    sys.stdout.write("\n".join(left or [f"all of {qemu} is classed"]) + "\n")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
