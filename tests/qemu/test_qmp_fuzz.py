# SPDX-License-Identifier: GPL-2.0-or-later
"""Nonsense by QMP: each request is answered, by a value or a clean error, and the books balance.

Seeds are fixed, so that a failure can be repeated; a request that fails is printed in full.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare import BareGuest
from tests.qemu.plain import BACKEND, PlainQmp, machine, plain_qemu


pytestmark = pytest.mark.qemu

PAGE_SIZE = 4096
RAM_BYTES = 64 << 20
PAGES = RAM_BYTES // PAGE_SIZE
SHADOW_PAGES = 0x60  # RAM of a PC that has no slot: 640 KiB to 1 MiB
REQUESTS = 400
LIMIT_MAX = 65536

COMMANDS = {
    "restricted-memory-convert": ("id", "to", "ranges", "content"),
    "restricted-memory-accept": ("id", "ranges"),
    "restricted-memory-discard": ("id", "ranges"),
    "restricted-memory-poison": ("id", "ranges"),
    "restricted-memory-invalidate": ("id", "event", "ranges"),
    "restricted-memory-set-policy": ("id", "policy"),
    "query-restricted-memory": (),
    "query-restricted-memory-ranges": ("id", "gpa", "size", "limit"),
}
NUMBERS = [
    0, 1, 4095, 4096, 4097, 0x9F000, 0xA0000, 0xFFFFF, 0x100000, RAM_BYTES - PAGE_SIZE, RAM_BYTES,
    RAM_BYTES + 1, 1 << 32, (1 << 52) - PAGE_SIZE, 1 << 60, 1 << 61, (1 << 63) - 1, 1 << 63,
    (1 << 64) - PAGE_SIZE, (1 << 64) - 1, 1 << 64, -1, -4096, -(1 << 63),
]  # fmt: skip
JUNK: list[object] = [
    None,
    True,
    1.5,
    "",
    "ram0",
    "\u0000",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"gpa": 0},
]


class Nonsense:
    """Requests, most of them almost right."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._makers: dict[str, Callable[[], object]] = {
            "id": lambda: self._mostly("ram0"),
            "to": lambda: self._mostly(self._random.choice(["shared", "private"])),
            "content": lambda: self._mostly(self._random.choice(["discard", "preserve"])),
            "event": lambda: self._mostly(self._random.choice(["start", "end"])),
            "policy": lambda: self._mostly(self._random.choice(["deny", "zero", "share"])),
            "ranges": lambda: self._mostly(self._ranges()),
            "gpa": lambda: self._mostly(self._number()),
            "size": lambda: self._mostly(self._number()),
            "limit": lambda: self._mostly(self._random.choice([1, 2, 4096, LIMIT_MAX, 0, 1 << 32])),
        }

    def request(self) -> dict[str, object]:
        name = self._random.choice(list(COMMANDS))
        arguments = {
            key: self._makers[key]() for key in COMMANDS[name] if self._random.random() < 0.97
        }
        if self._random.random() < 0.02:
            arguments["nonsense"] = self._junk()
        return {"execute": name, "arguments": arguments}

    def _mostly(self, value: object) -> object:
        return value if self._random.random() < 0.95 else self._junk()

    def _junk(self) -> object:
        return self._random.choice([*JUNK, *NUMBERS])

    def _number(self) -> int:
        if self._random.random() < 0.5:
            return self._random.choice(NUMBERS)
        return self._random.randrange(PAGES) * PAGE_SIZE

    def _ranges(self) -> list[object]:
        kind = self._random.random()
        if kind < 0.6:  # legal: apart from each other, in RAM with a slot
            count = self._random.choice([1, 2, 7, 300])
            firsts = sorted(self._random.sample(range(0x2000, PAGES - 8, 8), count))
            return [self._range(page * PAGE_SIZE, self._random.randint(1, 8)) for page in firsts]
        if kind < 0.65:
            return [self._range(0x2000000 + i * 8192, 1) for i in range(3000)]
        return [
            {"gpa": self._number(), "size": self._number()}
            for _ in range(self._random.choice([0, 1, 2, 5]))
        ]

    def _range(self, gpa: int, pages: int) -> dict[str, int]:
        return {"gpa": gpa, "size": pages * PAGE_SIZE}


@contextmanager
def fuzzed(qemu: Path, elf: Path, folder: Path, coco: str) -> Iterator[PlainQmp]:
    """Boot the bare-metal guest; QEMU must be alive and well when the block is left."""
    command = [*machine(qemu, rom_dirs(), backend=f"{BACKEND},profile={coco}"), "-kernel", str(elf)]
    with plain_qemu(command, folder) as process, process.qmp() as qmp:
        BareGuest(process.agent).wait_hello()
        yield qmp
        assert process.process.poll() is None
        qmp.command("quit")
        assert process.wait() == 0, process.log.read_text()


@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
@pytest.mark.parametrize("seed", range(4))
def test_each_request_is_answered_and_the_books_balance(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path, coco: str, seed: int
) -> None:
    nonsense = Nonsense(seed)
    answers: Counter[str] = Counter()
    with fuzzed(patched_qemu, bare_elf, tmp_path, coco) as qmp:
        for number in range(REQUESTS):
            request = nonsense.request()
            answer = qmp.ask(request)
            assert clean(answer), f"{json.dumps(request)[:2000]}: {answer}"
            answers["return" if "return" in answer else "error"] += 1
            if number % 20 == 0:
                assert_balanced(qmp)
        assert_balanced(qmp)
    # Both must be frequent, or the fuzzer tests the parser only.
    assert min(answers["return"], answers["error"]) > REQUESTS / 8


def clean(answer: dict[str, Any]) -> bool:
    """An answer is a value, or an error with a sentence."""
    if "return" in answer:
        return True
    error = answer.get("error", {})
    return error.get("class") in ("GenericError", "CommandNotFound") and bool(error.get("desc"))


def assert_balanced(qmp: PlainQmp) -> None:
    """With the guest held: pages by state sum up, and equal what the runs say."""
    qmp.command("stop")
    (info,) = qmp.command("query-restricted-memory")
    runs = qmp.command("query-restricted-memory-ranges", id="ram0", limit=LIMIT_MAX)
    assert sum(info["pages"].values()) == PAGES
    by_runs: Counter[str] = Counter()
    for run in runs:
        by_runs[run["state"]] += run["size"] // PAGE_SIZE
    assert sum(by_runs.values()) == PAGES - SHADOW_PAGES
    hidden = {state: count - by_runs[state] for state, count in info["pages"].items()}
    assert sum(hidden.values()) == SHADOW_PAGES
    assert all(count >= 0 for count in hidden.values()), hidden
    if info["layout"] == "split":
        assert info["private-bytes"] == info["pages"]["private"] * PAGE_SIZE
        assert info["shared-bytes"] == info["pages"]["shared"] * PAGE_SIZE


def test_control_the_check_of_the_books_can_fail() -> None:
    assert not clean({"error": {"class": "GenericError", "desc": ""}})
    assert not clean({})
    assert clean({"return": []})


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_json(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    whole = json.dumps(Nonsense(seed).request()).encode()
    with fuzzed(patched_qemu, bare_elf, tmp_path, "generic") as qmp:
        for _ in range(200):
            broken = bytearray(whole)
            for _ in range(generator.randint(1, 8)):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
            # The parser starts over after a byte that begins no JSON token.
            qmp.socket.sendall(bytes(broken) + b"\xff\n")
        assert qmp.command("query-status")["running"] in (True, False)
