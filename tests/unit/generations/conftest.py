# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts which entries of the catalogue have a test, by the names and parameters of the tests."""

import re
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest


CATALOGUE = tomllib.loads((Path(__file__).parents[2] / "catalogue.toml").read_text())
ENTRIES = {entry.lower(): (part, entry) for part in CATALOGUE for entry in CATALOGUE[part]}
_passed: set[str] = set()


def entries_in(name: str) -> set[str]:
    """Return the entries that a test's name or parameters mention: ``test_a01_...``, ``[D39-bad fd]``."""
    return set(re.split(r"[^a-z0-9]+", name.lower())) & ENTRIES.keys()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.passed:
        _passed.update(entries_in(item.name))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print entries with a passing test against all entries, part by part."""
    if not _passed:
        return
    terminalreporter.section("catalogue of restricted memory")
    for part, entries in CATALOGUE.items():
        missing = [entry for entry in entries if entry.lower() not in _passed]
        share = 100 * (len(entries) - len(missing)) / len(entries)
        line = f"{part}: {len(entries) - len(missing)}/{len(entries)} entries have a test ({share:.0f} %)"
        terminalreporter.write_line(f"{line}; without: {', '.join(missing)}" if missing else line)
    total = len(ENTRIES)
    terminalreporter.write_line(f"all: {len(_passed)}/{total}")
