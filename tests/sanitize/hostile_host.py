# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile QMP client: random and half-right requests, made from the schema that QEMU gives.

The same seed makes the same requests.  Most are of the commands that reach restricted memory, the
others of any command but those that hostile_words.py leaves out.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.ranges import PAGE_SIZE
from tests.qemu.bare_machine import AREA, MEMORY_BYTES
from tests.qemu.plain import PlainQmp
from tests.sanitize.hostile_words import (
    CHECKPOINTS,
    DEVICES,
    DISTURBING,
    FAVOURITES,
    HMP,
    LEFT_OUT_MEMBERS,
    LEFT_OUT_TYPES,
    NUMBERS,
    OBJECTS,
    PATHS,
    SIZES,
    SLOW,
    SMALL,
    WORDS,
    is_left_out,
)  # fmt: skip


WINDOW = 8  # requests that QEMU's monitor takes before it has answered the first
DEADLINE_S = 60.0
RAM_PAGES = range(MEMORY_BYTES // PAGE_SIZE)
KNOWN_MAX = 2000
MADNESS = 0.1  # of requests, whose arguments have only the types that the schema asks for
STEADY = ("memsave", "pmemsave", "human-monitor-command")  # but these, which would take long
_DEEPEST = 4


class HostileHost:
    """Requests by the schema of ``query-qmp-schema``; files are made in *folder* only.

    ``lets_run``: none that keeps the bare guest from attacking for long; only its area is converted
    and poisoned.
    """

    def __init__(
        self,
        seed: int,
        schema: Sequence[Mapping[str, Any]],
        folder: Path,
        *,
        lets_run: bool = False,
    ) -> None:
        self._random = random.Random(seed)
        self._types = {entry["name"]: entry for entry in schema}
        self._folder = folder
        commands = [
            entry["name"]
            for entry in schema
            if entry["meta-type"] == "command" and not is_left_out(entry["name"])
        ]
        favourites, hmp = [name for name in FAVOURITES if name in self._types], list(HMP)
        self._pages = RAM_PAGES
        if lets_run:
            # Commands of disks and consoles may hold the main loop for seconds.
            commands = [name for name in commands if name.startswith(("query-", "x-query-"))]
            favourites, hmp = (
                [name for name in names if name not in DISTURBING] for names in (favourites, hmp)
            )
            self._pages = range(AREA // PAGE_SIZE, AREA // PAGE_SIZE + 240)
        self._commands, self._favourites, self._hmp = commands, favourites, hmp
        self.paths: list[str] = list(PATHS)
        self.properties: list[str] = ["type"]
        self.devices = list(DEVICES)
        self._makers: dict[str, Callable[[], dict[str, object]]] = {
            "human-monitor-command": self._hmp_line,
            "object-add": self._object_type,
            "device_add": self._device,
            "qom-get": self._property,
            "qom-set": self._property,
            "qom-list": self._path,
            "memsave": self._size,
            "pmemsave": self._size,
        }

    def request(self) -> dict[str, object]:
        """Return the next request."""
        pool = self._favourites if self._random.random() < 0.7 else self._commands
        name = self._random.choice(pool)
        if name in SLOW and self._random.random() < 0.9:
            name = self._random.choice(pool)
        arguments = self._object(self._types[self._types[name]["arg-type"]], 0)
        arguments |= self._half_right(name)
        if name == "migrate" and not _has_main_channel(arguments):
            arguments.pop("channels", None)
        return {"execute": name, "arguments": self._spared(name, arguments)}

    def _half_right(self, name: str) -> dict[str, object]:
        """Return arguments that make sense, mostly, for what the schema says too little of."""
        if name not in STEADY and self._random.random() < MADNESS:
            return {}
        if "restricted-memory" in name:
            return self._ours(name)
        make = self._makers.get(name)
        return make() if make else {}

    def _ours(self, name: str) -> dict[str, object]:
        """Return members that a command of the plugin has, by what they mean."""
        members = {
            member["name"] for member in self._types[self._types[name]["arg-type"]]["members"]
        }
        made = {
            "id": BACKEND_ID,
            "name": self._random.choice(CHECKPOINTS),
            "file": str(self._folder / "state"),
            "ranges": self._ranges(),
        }
        return {key: made[key] for key in made if key in members}

    def _device(self) -> dict[str, object]:
        choose = self._random.choice
        more = {
            choose(self.properties): self._builtin("value") for _ in range(choose((0, 0, 1, 3)))
        }
        return more | {"driver": choose(choose((DEVICES, self.devices)))}

    def _object_type(self) -> dict[str, object]:
        return {"qom-type": self._random.choice(OBJECTS)} if self._random.random() < 0.7 else {}

    def _property(self) -> dict[str, object]:
        return {
            "path": self._random.choice(self.paths),
            "property": self._random.choice(self.properties),
        }

    def _path(self) -> dict[str, object]:
        return {"path": self._random.choice(self.paths)}

    def _size(self) -> dict[str, object]:
        return {"size": self._random.choice(SIZES if self._random.random() < 0.998 else NUMBERS)}

    def _hmp_line(self) -> dict[str, object]:
        return {"command-line": self._random.choice(self._hmp)}

    def _spared(self, name: str, value: Any) -> Any:
        """Leave out of arguments what is of files elsewhere, and what stock QEMU cannot take."""
        if isinstance(value, list):
            return [self._spared(name, item) for item in value]
        if not isinstance(value, dict):
            return value
        spared = {
            key: self._spared(name, item)
            for key, item in value.items()
            if key not in LEFT_OUT_MEMBERS
        }
        for key, scheme in (("filename", ""), ("protocol", "file:")):
            if key in spared:  # no other file may be written
                spared[key] = f"{scheme}{self._folder / 'file'}"
        small = SMALL.get(name, {})
        return {key: small.get(key, _allowed(item)) for key, item in spared.items()}

    def _ranges(self) -> list[dict[str, int]]:
        first = self._random.choice(self._pages)
        sizes = (self._random.randrange(1, 17) for _ in range(self._random.choice((1, 1, 2, 5))))
        ranges = []
        for pages in sizes:
            ranges.append({"gpa": first * PAGE_SIZE, "size": pages * PAGE_SIZE})
            first += pages
        return ranges

    def learn(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Take names of objects, properties and devices from the answer to a list."""
        found = answer.get("return")
        if not isinstance(found, list):
            return
        match request["execute"]:
            case "qom-list":
                self._learn_objects(request["arguments"].get("path", ""), found)
            case "device-list-properties" | "qom-list-properties":
                self._learn_properties(found)

    def _learn_objects(self, path: str, found: Sequence[Mapping[str, str]]) -> None:
        children = [item for item in found if item["type"].startswith("child<")]
        self.paths += [f"{path}/{item['name']}" for item in children][: KNOWN_MAX - len(self.paths)]
        self._learn_properties([item for item in found if item not in children])

    def _learn_properties(self, found: Sequence[Mapping[str, str]]) -> None:
        names = [item["name"] for item in found]
        self.properties += names[: KNOWN_MAX - len(self.properties)]

    def _value(self, name: str, depth: int) -> object:
        if self._random.random() < 0.05:
            return self._random.choice([None, True, 1.5, [], {}, *NUMBERS[:4], *WORDS[:4]])
        kind = self._types[name]
        match kind["meta-type"]:
            case "builtin":
                return self._builtin(kind["json-type"])
            case "enum":
                members = kind.get("members") or [{"name": word} for word in kind["values"]]
                return self._random.choice(members)["name"]
            case "alternate":
                return self._value(self._random.choice(kind["members"])["type"], depth + 1)
        return {} if depth >= _DEEPEST else self._nested(kind, depth + 1)

    def _nested(self, kind: Mapping[str, Any], depth: int) -> object:
        if kind["meta-type"] == "object":
            return self._object(kind, depth)
        count = self._random.choice((0, 1, 1, 2, 5))
        return [self._value(kind["element-type"], depth) for _ in range(count)]

    def _builtin(self, kind: str) -> object:
        match kind:
            case "int" | "number":
                return self._random.choice(NUMBERS)
            case "boolean":
                return self._random.random() < 0.5
            case "string" if self._random.random() < 0.2:
                return str(self._folder / "file")
            case "string":
                return self._random.choice(WORDS)
        return self._random.choice((None, True, "", [], {}, *NUMBERS, *WORDS))  # "value": any

    def _object(self, kind: Mapping[str, Any], depth: int) -> dict[str, object]:
        made = {
            member["name"]: self._value(member["type"], depth)
            for member in kind["members"]
            if "default" not in member or self._random.random() < 0.3
        }
        tag = kind.get("tag")
        if tag and isinstance(made.get(tag), str):
            for variant in kind.get("variants", ()):
                if variant["case"] == made[tag]:
                    made |= self._object(self._types[variant["type"]], depth + 1)
        return made


def _allowed(value: Any) -> Any:
    return "edu" if isinstance(value, str) and is_left_out(value, LEFT_OUT_TYPES) else value


def _has_main_channel(arguments: Mapping[str, Any]) -> bool:
    """Stock QEMU reads through NULL for a list of channels without one."""
    channels = arguments.get("channels")
    return isinstance(channels, list) and any(
        isinstance(channel, dict) and channel.get("channel-type") == "main" for channel in channels
    )


def bombard(
    path: Path, seed: int, folder: Path, goes_on: Callable[[int], bool], *, lets_run: bool = False
) -> Counter[str]:
    """Send requests while *goes_on* of their number; return how many got a value and an error.

    It is one connection: objects of stock QEMU that cannot be completed close descriptor 0, which is
    no device any more after the first of them, but might be the next connection.
    """
    answers: Counter[str] = Counter()
    window: list[dict[str, object]] = []
    with PlainQmp(path, deadline_s=DEADLINE_S) as qmp:
        host = HostileHost(seed, qmp.command("query-qmp-schema"), folder, lets_run=lets_run)
        known = qmp.command("qom-list-types", implements="device")
        host.devices += sorted(item["name"] for item in known)
        while goes_on(answers.total()):
            before, window = window, [host.request() for _ in range(WINDOW)]
            try:
                found = qmp.ask_all(window)
            except OSError as error:
                shown = "\n".join(json.dumps(request)[:400] for request in before + window)
                raise AssertionError(f"QEMU is gone: {error!r}\n{shown}") from error
            for request, answer in zip(window, found, strict=True):
                host.learn(request, answer)
                answers["value" if "return" in answer else "error"] += 1
            qmp.events.clear()
    return answers
