# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the speed budgets beside what was measured: ``python -m tests.bench [GROUP ...]``.

The exit status is 1 if a budget is missed.  What the machine cannot measure is said, and is not
missed.  A number taken on a busy machine proves nothing: look at the scatter, and run it again.
"""

import argparse
import json
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cvmlab.base.errors import CvmError
from cvmlab.qemu import build
from tests.bench import (
    boots,
    cli,
    copies,
    devices,
    dumps,
    generations,
    memory,
    realms,
    replays,
    ring,
    stack_record,
    travel,
)
from tests.bench.measure import Figure


BUDGETS = Path(__file__).with_name("budgets.toml")
# What a group is given is how many rounds were asked for, if any were.
Group = Callable[[int | None], Iterator[Figure]]
GROUPS: Mapping[str, Group] = {
    "ring": lambda _: ring.figures(),
    "stacks": lambda _: stack_record.figures(),
    "memory": lambda _: memory.figures(),
    "generations": lambda _: generations.figures(),
    "cli": lambda _: cli.figures(),
    "boots": boots.figures,
    "realms": realms.figures,
    "devices": devices.figures,
    "travel": lambda _: travel.figures(),
    "copies": lambda _: copies.figures(),
    "dumps": lambda _: dumps.figures(),
    "replays": replays.figures,
}


def budget_of(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the budget of that name, or of the longest pattern that fits; raise KeyError."""
    if name in known:
        return dict(known[name])
    for pattern in sorted((key for key in known if "*" in key), key=len, reverse=True):
        fit = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name)
        if fit:
            budget = known[pattern]
            return {**budget, "what": budget["what"].replace("*", fit[1])}
    raise KeyError(name)


def row(figure: Figure, budget: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the table; ``kept`` is None if nothing could be measured."""
    least = budget.get("minimum", False)
    kept = None
    if figure.value is not None:
        kept = figure.value >= budget["limit"] if least else figure.value <= budget["limit"]
    return {
        "name": figure.name,
        "what": budget["what"],
        "budget": f"{'>=' if least else '<='} {budget['limit']:g} {budget['unit']}",
        "measured": figure.value,
        "unit": budget["unit"],
        "kept": kept,
        "detail": figure.detail,
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table("what", "budget", "measured", "", "detail", title=title, title_justify="left")
    for one in rows:
        table.add_row(one["what"], one["budget"], *_judged(one), one["detail"])
    Console(width=200).print(table)


def _judged(one: dict[str, Any]) -> tuple[str, str]:
    value = one["measured"]
    if value is None:
        return "-", "not available"
    return f"{value:,.3f}" if value < 1000 else f"{value:,.0f}", "kept" if one["kept"] else "MISSED"


def qemu() -> dict[str, str]:
    """Return which QEMU is measured; it need not be built for the groups that run none."""
    try:
        return build.identity()
    except CvmError:
        return {}


def main(argv: Sequence[str] | None = None, groups: Mapping[str, Group] = GROUPS) -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--budgets", type=Path, metavar="FILE", default=BUDGETS)
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="for a quick look at boots, devices"
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    options = parser.parse_args(argv)
    wrong = set(options.groups) - set(groups)
    if wrong:
        parser.error(f"unknown group {min(wrong)}; there are {', '.join(groups)}")
    known = tomllib.loads(options.budgets.read_text())
    figures = (one for name in options.groups or groups for one in groups[name](options.rounds))
    rows = [row(figure, budget_of(figure.name, known)) for figure in figures]
    title = ", ".join(f"{name} {text}" for name, text in qemu().items())
    show(f"QEMU: {title or 'none'}; the unpatched one is built alike", rows)
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        document = {**machine, "qemu": qemu(), "figures": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(one["kept"] is False for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
