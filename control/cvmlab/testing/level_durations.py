# SPDX-License-Identifier: GPL-2.0-or-later
"""How long each level of the tests took, from tox's own report.  Pure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LevelDuration:
    """A tox environment that ran, and the seconds it took with its setup."""

    level: str
    seconds: float
    passed: bool


def durations(report: str) -> list[LevelDuration]:
    """Return what ran, in tox's order; *report* is what ``tox --result-json`` wrote."""
    return [
        LevelDuration(level, result["duration"], result["success"])
        for level, environment in json.loads(report)["testenvs"].items()
        if (result := environment.get("result")) and not result.get("skipped")
    ]


def table(levels: Iterable[LevelDuration]) -> list[str]:
    """Return a line for each level, and one for their sum."""
    rows = [(one.level, one.seconds, "" if one.passed else "  failed") for one in levels]
    if not rows:
        return []
    rows.append(("all", sum(seconds for _, seconds, _ in rows), ""))
    width = max(len(level) for level, _, _ in rows)
    lines = [f"{level:{width}}  {seconds:7.0f}{failed}" for level, seconds, failed in rows]
    return [f"{'level':{width}}  {'seconds':>7}", *lines]
