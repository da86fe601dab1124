# SPDX-License-Identifier: GPL-2.0-or-later
"""The bench judges what it measured: a missed budget is its exit status."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.__main__ import BUDGETS, budget_of, main
from tests.bench.boots import MEASURED, against
from tests.bench.measure import Cost, Figure
from tests.bench.perf_counter import Counter


ROOT = Path(__file__).parents[2]
KNOWN = tomllib.loads(BUDGETS.read_text())


def one(name: str, value: float | None) -> Iterator[Figure]:
    yield Figure(name, value, "measured by a test")


@pytest.mark.parametrize(
    ("name", "value", "status", "said"),
    [
        ("boot-tdx", 1.019, 0, "kept"),
        ("boot-tdx", 1.021, 1, "MISSED"),
        ("net-tdx", 0.96, 0, "kept"),
        ("net-tdx", 0.94, 1, "MISSED"),
        ("boot-tdx-instructions", None, 0, "not available"),
    ],
)
def test_a_missed_budget_is_the_exit_status(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: float | None,
    status: int,
    said: str,
) -> None:
    out = tmp_path / "out.json"
    groups = {"one": lambda _: one(name, value), "good": lambda _: one("boot-sev", 1.0)}
    assert main(["--json", str(out)], groups) == status
    assert said in capsys.readouterr().out
    figures = json.loads(out.read_text())["figures"]
    assert [figure["kept"] for figure in figures] == [None if value is None else not status, True]


def test_the_process_ends_with_it(tmp_path: Path) -> None:
    strict = tmp_path / "budgets.toml"
    text = '[cli-start]\nwhat = "start"\nunit = "s"\nlimit = {}\n'
    for limit, status in ((0, 1), (60, 0)):
        strict.write_text(text.format(limit))
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench", "--budgets", str(strict), "cli"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "control")},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr


def test_every_boot_has_a_budget() -> None:
    for name in [*MEASURED, "memfd"]:
        assert budget_of(f"boot-{name}", KNOWN)["limit"] <= 1.03
    for name in MEASURED:
        assert "anonymous" in budget_of(f"boot-{name}-anonymous", KNOWN)["what"]
        assert f"under {name}," in budget_of(f"boot-{name}-instructions", KNOWN)["what"]
    with pytest.raises(KeyError):
        budget_of("unknown", KNOWN)


def test_instructions_are_a_ratio_of_their_own_where_they_are_counted() -> None:
    counted = [{"ours": Cost(1.1, 1020), "other": Cost(1.0, 1000)}] * 3
    time, instructions = against("boot-tdx", counted, "ours", "other")
    assert time.value == pytest.approx(1.1)
    assert instructions.value == pytest.approx(1.02)
    blind = [{"ours": Cost(1.1, None), "other": Cost(1.0, None)}]
    time, instructions = against("boot-tdx", blind, "ours", "other")
    assert time.value == pytest.approx(1.1)
    assert instructions.value is None
    assert "counts no instructions" in instructions.detail


def test_what_is_counted_is_what_was_started() -> None:
    work = "sum(range(3_000_000))"
    with Counter.clock() as counter:
        sum(range(3_000_000))
        if counter.value is None:
            pytest.skip("this kernel lets nobody count")
        assert counter.value == 0
        subprocess.run([sys.executable, "-c", work], check=True, timeout=30)
        assert counter.value > 1_000_000
    with Counter.instructions() as counter:
        subprocess.run([sys.executable, "-c", work], check=True, timeout=30)
        assert counter.value is None or counter.value > 1_000_000
