# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile QMP client: random and half-right requests, made from the schema that QEMU gives.

The same seed makes the same requests.  They are of the commands that reach restricted memory, and of
all queries.  Others are the monitor of stock QEMU, which its owner can crash: bdrv_reopen_multiple()
asserts on an empty list, a transaction reads through NULL for a bitmap that does not exist.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.ranges import PAGE_SIZE
from tests.qemu.bare_machine import AREA, MEMORY_BYTES
from tests.qemu.plain import PlainQmp


NUMBERS = (
    0, 1, 2, 7, 4095, 4096, 0x9F000, 0xA0000, 0x100000, 0x2000000, 0x3FFF000, 0x4000000, 1 << 32,
    (1 << 52) - 4096, 1 << 61, (1 << 63) - 1, -1, -4096, -(1 << 63),
)  # fmt: skip
WORDS = (
    "", "ram0", "tdx0", "sev0", "sev-snp0", "edu0", "/objects", "/objects/ram0", "/machine",
    "/machine/peripheral", "/machine/unattached", "on", "off", "shared", "private", "discard",
    "x" * 3000, "\u0000", "tcp:127.0.0.1:1", "unix:/nonexistent", "edu", "virtio-rng-pci", "name",
    "merge", "dump", "prealloc", "size", "share", "policy", "realized", "hotplugged",
    "quote-generation-socket", "guest-request-socket",
)  # fmt: skip
HMP = (
    "info registers", "info mem", "info tlb", "info mtree", "info qtree", "info ramblock", "x /4xg 0",
    "xp /4xg 0x2000000", "gva2gpa 0", "gpa2hva 0x2000000", "print $rip", "info lapic", "sum 0 4096",
    "log guest_errors", "log none", "info migrate", "savevm x", "loadvm x", "info snapshots", "nmi",
    "gdbserver none", "calc_dirty_rate 1", "info dirty_rate", "info cpus", "info irq", "info pic",
    "one-insn-per-tb on", "one-insn-per-tb off", "i /b 0x60", "p 1+", "cpu 0", "info jit",
)  # fmt: skip
FAVOURITES = (
    "qom-get", "qom-set", "qom-list", "device_add", "device_del", "migrate", "migrate-set-parameters",
    "migrate_cancel", "human-monitor-command", "restricted-memory-convert", "restricted-memory-accept",
    "restricted-memory-discard", "restricted-memory-poison", "restricted-memory-set-policy",
    "restricted-memory-invalidate", "query-restricted-memory", "query-restricted-memory-ranges",
    "memsave", "pmemsave", "dump-guest-memory", "stop", "cont", "system_reset", "object-add",
    "object-del", "calc-dirty-rate", "set-vcpu-dirty-limit", "inject-nmi", "balloon", "device-sync-config",
    "trace-event-set-state", "sev-inject-launch-secret", "qom-list-properties", "device-list-properties",
    "rtc-reset-reinjection", "query-cpu-model-expansion",
)  # fmt: skip
OBJECTS = (
    "memory-backend-restricted", "memory-backend-ram", "memory-backend-memfd", "tdx-guest", "sev-guest",
    "sev-snp-guest", "rng-random", "iothread", "throttle-group", "secret",
)  # fmt: skip
SLOW = ("device_add", "query-cpu-definitions", "query-machines", "cont")  # asked less often
# What keeps a guest from attacking at the same time.
DISTURBING = (
    "stop", "system_reset", "inject-nmi", "restricted-memory-set-policy",
    "restricted-memory-invalidate", "restricted-memory-poison", "nmi", "one-insn-per-tb on",
)  # fmt: skip
WINDOW = 8  # requests that QEMU's monitor takes before it has answered the first
DEADLINE_S = 60.0
RAM_PAGES = range(MEMORY_BYTES // PAGE_SIZE)
_DEEPEST = 4


class HostileHost:
    """Requests by the schema of ``query-qmp-schema``; files are made in *folder* only.

    ``lets_run``: none that keeps the bare guest from attacking, but the conversion of its area.
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
        self._commands = [
            entry["name"]
            for entry in schema
            if entry["meta-type"] == "command"
            and entry["name"].startswith(("query-", "x-query-"))
            and entry["name"] != "query-qmp-schema"  # long, and always the same
        ]
        self._pages = RAM_PAGES
        self._hmp: Sequence[str] = HMP
        favourites: Sequence[str] = FAVOURITES
        if lets_run:
            self._hmp = [line for line in HMP if line not in DISTURBING]
            favourites = [name for name in FAVOURITES if name not in DISTURBING]
            self._pages = range(AREA // PAGE_SIZE, AREA // PAGE_SIZE + 240)
        self._favourites = [name for name in favourites if name in self._types]
        self.paths: list[str] = ["/objects/ram0", "/machine"]
        self.properties: list[str] = ["type"]

    def request(self) -> dict[str, object]:
        """Return the next request."""
        pool = self._favourites if self._random.random() < 0.7 else self._commands
        name = self._random.choice(pool)
        if name in SLOW and self._random.random() < 0.9:
            name = self._random.choice(pool)
        arguments = self._object(self._types[self._types[name]["arg-type"]], 0)
        if name.startswith("restricted-memory-") and self._random.random() < 0.9:
            arguments |= self._ranges()
        if name == "human-monitor-command":
            arguments = {"command-line": self._random.choice(self._hmp)}
        self._spare_the_machine(name, arguments)
        if name == "object-add" and "qom-type" in arguments:
            arguments["qom-type"] = self._random.choice(OBJECTS)
            arguments |= {"prealloc": False, "size": 1 << 20}  # a test must not eat the machine
        if name in ("qom-get", "qom-set", "qom-list") and self._random.random() < 0.9:
            arguments["path"] = self._random.choice(self.paths)
            if name != "qom-list":
                arguments["property"] = self._random.choice(self.properties)
        return {"execute": name, "arguments": arguments}

    def _spare_the_machine(self, name: str, arguments: dict[str, object]) -> None:
        """Leave out files elsewhere, and what stock QEMU cannot take."""
        for key, scheme in (("filename", ""), ("protocol", "file:")):
            if key in arguments:  # no other file may be written
                arguments[key] = f"{scheme}{self._folder / 'file'}"
        if name == "migrate-set-parameters":  # stock QEMU does not free a clone of this list
            arguments.pop("block-bitmap-mapping", None)
        if name == "migrate":  # stock QEMU reads through NULL if "channels" has no main one
            arguments.pop("channels", None)

    def _ranges(self) -> dict[str, object]:
        first = self._random.choice(self._pages)
        sizes = (self._random.randrange(1, 17) for _ in range(self._random.choice((1, 1, 2, 5))))
        ranges = []
        for pages in sizes:
            ranges.append({"gpa": first * PAGE_SIZE, "size": pages * PAGE_SIZE})
            first += pages
        return {"id": BACKEND_ID, "ranges": ranges}

    def learn(self, request: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Take names of objects and properties from the answer to a qom-list."""
        found = answer.get("return")
        if request["execute"] != "qom-list" or not isinstance(found, list):
            return
        path = request["arguments"].get("path", "")
        for item in found:
            if item["type"].startswith("child<") and len(self.paths) < 2000:
                self.paths.append(f"{path}/{item['name']}")
            elif len(self.properties) < 2000:
                self.properties.append(item["name"])

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
        return self._random.choice((None, 0, "", True))

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


def bombard(
    path: Path, seed: int, folder: Path, requests: int, *, lets_run: bool = False
) -> Counter[str]:
    """Send the requests; return how many were answered by a value and by an error."""
    answers: Counter[str] = Counter()
    window: list[dict[str, object]] = []
    with PlainQmp(path, deadline_s=DEADLINE_S) as qmp:
        host = HostileHost(seed, qmp.command("query-qmp-schema"), folder, lets_run=lets_run)
        while answers.total() < requests:
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
