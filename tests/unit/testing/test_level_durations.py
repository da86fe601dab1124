# SPDX-License-Identifier: GPL-2.0-or-later
"""How long each level of the tests takes: the table at the end of a run, and the one in the README."""

import json
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.cli.selftest import report_file
from cvmlab.testing.level_durations import LevelDuration, durations, table
from tests.durations import BEGIN, END, replaced
from tests.durations import README as README_FILE


def result(duration: float, *, success: bool = True, skipped: bool = False) -> dict[str, Any]:
    return {"result": {"success": success, "duration": duration, "skipped": skipped}}


# As tox writes it: environments that did not run have no result.
REPORT = json.dumps(
    {
        "testenvs": {
            "lint": result(7.4),
            ".pkg": {},
            "unit": result(61.6, success=False),
            "bench": {},
            "py312-unit": result(0.1, skipped=True),
        }
    }
)
README = f"# Tests\n\n{BEGIN}\n{END}\n\n## Habits\n"


def test_levels_that_did_not_run_are_left_out() -> None:
    assert durations(REPORT) == [
        LevelDuration("lint", 7.4, passed=True),
        LevelDuration("unit", 61.6, passed=False),
    ]


def test_the_table_says_which_level_failed_and_sums_up() -> None:
    assert table(durations(REPORT)) == [
        "level  seconds",
        "lint        7",
        "unit       62  failed",
        "all        69",
    ]
    assert table([]) == []


def test_the_readme_gets_a_table_between_the_markers() -> None:
    levels = [LevelDuration("lint", 7.4, passed=True), LevelDuration("unit", 61.6, passed=True)]
    text = replaced(README, levels, 2)
    assert text == (
        f"# Tests\n\n{BEGIN}\n\n"
        "Seconds on a machine with 2 CPUs, with both QEMUs built before.  To update them, run "
        "`./cvmlab test`,\nthen `.venv/bin/python -m tests.durations`.\n\n"
        "| level | seconds |\n|---|---|\n| `lint` | 7 |\n| `unit` | 62 |\n| all | 69 |\n"
        f"\n{END}\n\n## Habits\n"
    )
    assert replaced(text, levels, 2) == text


def test_levels_that_failed_or_did_not_run_keep_their_row() -> None:
    first = replaced(README, [LevelDuration(name, 10, passed=True) for name in ("lint", "unit")], 2)
    second = replaced(first, durations(REPORT), 2)
    assert "| `lint` | 7 |\n| `unit` | 10 |\n| all | 17 |\n" in second


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place for the durations") as caught:
        replaced("# Tests\n", [], 2)
    assert BEGIN in (caught.value.hint or "")


def test_chosen_tests_do_not_count_as_their_level(tmp_path: Path) -> None:
    whole = report_file(tmp_path)
    assert report_file(tmp_path, ["-e", "unit"]) == whole
    assert report_file(tmp_path, ["-e", "unit", "--", "tests/unit/cli"]) != whole


def test_the_readme_of_the_tests_has_the_markers() -> None:
    assert replaced(README_FILE.read_text(), [], 2)
