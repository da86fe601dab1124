# SPDX-License-Identifier: GPL-2.0-or-later
"""Each fault that was found from outside has a test that names it, or a reason."""

import re
import tomllib
from pathlib import Path


TESTS = Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"\bfault\(([^)]*)\)")
_ID = re.compile(r'"([A-Z]\d+)"')


def _listed() -> tuple[set[str], set[str]]:
    groups = tomllib.loads((TESTS / "faults.toml").read_text())
    deviations = set(groups.pop("deviations"))
    return {fault for group in groups.values() for fault in group}, deviations


def _tested() -> set[str]:
    here = Path(__file__)
    sources = (path.read_text() for path in TESTS.rglob("*.py") if path != here)
    return {
        fault
        for source in sources
        for marker in _MARKER.findall(source)
        for fault in _ID.findall(marker)
    }


def test_markers_and_reasons_name_faults_that_exist() -> None:
    faults, deviations = _listed()
    assert _tested() <= faults
    assert deviations <= faults


def test_each_fault_has_a_test_or_a_reason() -> None:
    faults, deviations = _listed()
    assert faults - _tested() - deviations == set()


def test_a_fault_with_a_test_needs_no_reason() -> None:
    _, deviations = _listed()
    assert deviations & _tested() == set()
