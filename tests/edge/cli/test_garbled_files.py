# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is in the files of a run or in a baseline: a document and 0, or one sentence and a code.

Files are made wrong by a seed, so a finding repeats.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from cvmlab.cli import main
from cvmlab.memory.records import RECORD
from cvmlab.results import baselines
from cvmlab.results.result import EXIT_CODES, Outcome
from tests.fakes import journals as make


ROUNDS = 40
OK, BAD, GREW = (
    EXIT_CODES[outcome] for outcome in (Outcome.OK, Outcome.BAD_INPUT, Outcome.BUDGET_EXCEEDED)
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, -(2**63), 10**30, 1e308, "", "x" * 5000,
    "\u0000\u001b[2J", "2026-13-45T99:99:99", "../../x", "\ud7ff", [], [[]], [None], {}, {"": {}},
)  # fmt: skip


def cut(chance: random.Random, good: bytes) -> bytes:
    return good[: chance.randrange(len(good))] if good else b""


def flipped(chance: random.Random, good: bytes) -> bytes:
    made = bytearray(good)
    for _ in range(chance.choice((1, 1, 4, 64))):
        if made:
            made[chance.randrange(len(made))] = chance.randrange(256)
    return bytes(made)


def garbage(chance: random.Random, good: bytes) -> bytes:
    at = chance.randrange(len(good) + 1)
    return good[:at] + chance.randbytes(chance.choice((1, 16, 3000))) + good[at:]


def retyped(chance: random.Random, good: bytes) -> bytes:
    """Put a value of another kind, or an extreme one, somewhere into a JSON document."""
    try:
        document = json.loads(good)
    except ValueError:
        return flipped(chance, good)
    for _ in range(chance.choice((1, 1, 1, 5))):
        node, key = _somewhere(chance, document)
        value = deepcopy(chance.choice(VALUES))
        if node is None:
            return json.dumps(value).encode()
        match chance.randrange(8):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node["unknown"] = value
            case _:
                node[key] = value
    return json.dumps(document).encode()


def _somewhere(chance: random.Random, node: Any) -> tuple[Any, Any]:
    """Return a container and the key of one of its values, at any depth."""
    found: tuple[Any, Any] = (None, None)
    while isinstance(node, dict | list) and node and (found[0] is None or chance.random() < 0.7):
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
        found = node, key
        node = node[key]
    return found


def misnumbered(chance: random.Random, good: bytes) -> bytes:
    """Put an extreme number into one field of a journal's record."""
    size = RECORD.itemsize
    if len(good) < size:
        return garbage(chance, good)
    made = bytearray(good)
    for _ in range(chance.choice((1, 1, 8))):
        kind, offset = RECORD.fields[chance.choice(RECORD.names)][:2]  # type: ignore[index,arg-type]
        at = size * chance.randrange(len(good) // size) + offset
        made[at : at + kind.itemsize] = (
            chance.choice((b"\xff", b"\x7f", b"\x80", b"\0")) * kind.itemsize
        )
    return bytes(made)


WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (cut, flipped, garbage, retyped)
Ends = Callable[..., int]


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str]) -> Ends:
    """Run a command; return its exit code, once it is seen that it ended well or with a sentence."""

    def run(*words: object) -> int:
        code = main([str(word) for word in words])
        told = capsys.readouterr().err
        assert code in (OK, BAD, GREW), told
        assert "Traceback" not in told
        if code:
            assert told.startswith("cvmlab: "), told
            assert told.isprintable() or told.count("\n") == len(told.splitlines())
        return code

    return run


def seen(codes: Counter[int]) -> None:
    """Both ends are frequent, or what is tested is one check only."""
    assert min(codes[OK] + codes[GREW], codes[BAD]) > ROUNDS / 20, codes


@pytest.mark.parametrize("name", ["result.json", "names.json", "events.bin", "console.log"])
def test_a_run_folder(ends: Ends, tmp_path: Path, name: str) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / "console.log").write_text("Linux version 6.12\nlast words\n")
    other = shutil.copytree(folder, tmp_path / "other")
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    good = (folder / name).read_bytes()
    chance, codes = random.Random(name), Counter[int]()
    for _ in range(ROUNDS):
        way = misnumbered if name == "events.bin" and chance.random() < 0.7 else chance.choice(WAYS)
        (folder / name).write_bytes(way(chance, good))
        codes[ends("report", folder, "-o", page, "--trace", trace)] += 1
        codes[ends("report", other, "--compare", folder, "-o", page)] += 1
        codes[ends("events", folder)] += 1
        codes[ends("events", folder, "--json")] += 1
    if name != "console.log":
        seen(codes)


def test_a_result_and_a_baseline(ends: Ends, tmp_path: Path) -> None:
    result = make.run_folder(tmp_path / "run", make.small()) / "result.json"
    base = tmp_path / "base.json"
    assert ends("baseline", "update", base, result) == OK
    good = {path: path.read_bytes() for path in (result, base)}
    chance, codes = random.Random(5), Counter[int]()
    for _ in range(2 * ROUNDS):
        path = chance.choice((result, base))
        path.write_bytes(chance.choice(WAYS)(chance, good[path]))
        codes[ends("baseline", "check", base, result)] += 1
        codes[ends("baseline", "update", base, result)] += 1
        for each, content in good.items():
            each.write_bytes(content)
    seen(codes)


def test_kept_runs(ends: Ends, tmp_path: Path, state_home: Path) -> None:
    """A list goes on after a folder that makes no sense."""
    runs = state_home / "cvmlab" / "runs"
    folder = make.run_folder(runs / "one", make.small())
    names = ("result.json", "vm.json", "events.bin")
    good = {
        name: (folder / name).read_bytes() if (folder / name).exists() else b"{}" for name in names
    }
    chance = random.Random(9)
    for _ in range(ROUNDS):
        name = chance.choice(names)
        (folder / name).write_bytes(chance.choice(WAYS)(chance, good[name]))
        assert ends("runs", "list") == OK
        assert ends("runs", "list", "--json") == OK
        assert ends("ps") == OK
        assert ends("query", "one") == BAD
        (folder / name).write_bytes(good[name])


@pytest.mark.parametrize("name", ["result.json", "names.json", "events.bin", "console.log"])
def test_what_is_no_file(ends: Ends, tmp_path: Path, name: str) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    for words in (("report", folder, "-o", tmp_path / "page.html"), ("events", folder)):
        ends(*words)


def test_control_a_good_run_is_read(ends: Ends, tmp_path: Path) -> None:
    folder = make.run_folder(tmp_path / "run", make.small())
    assert ends("report", folder, "-o", tmp_path / "page.html") == OK
    assert ends("events", folder) == OK
    assert baselines.parse({}, "base") == baselines.Baselines()
