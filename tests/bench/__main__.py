# SPDX-License-Identifier: GPL-2.0-or-later
"""Print the speed budgets beside what was measured: ``python -m tests.bench [--json FILE] [GROUP ...]``.

It judges nothing by its exit status: a number taken on a busy machine is no reason to fail a build.
"""

import argparse
import json
import platform
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cvmlab import build
from tests.bench import boots, cli, devices, generations, memory, ring
from tests.bench.measure import Figure


GROUPS = {
    "ring": ring.figures,
    "memory": memory.figures,
    "generations": generations.figures,
    "cli": cli.figures,
    "boots": boots.figures,
    "devices": devices.figures,
}


def budgets() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("budgets.toml").read_text())


def measured(groups: list[str]) -> Iterator[Figure]:
    for group in groups:
        yield from GROUPS[group]()


def row(figure: Figure, budget: dict[str, Any]) -> dict[str, Any]:
    least = budget.get("minimum", False)
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


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("what", "budget", "measured", "", "detail")
    for one in rows:
        value = f"{one['measured']:,.3f}" if one["measured"] < 1000 else f"{one['measured']:,.0f}"
        verdict = "kept" if one["kept"] else "MISSED"
        table.add_row(one["what"], one["budget"], value, verdict, one["detail"])
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    options = parser.parse_args()
    wrong = set(options.groups) - set(GROUPS)
    if wrong:
        parser.error(f"unknown group {min(wrong)}; there are {', '.join(GROUPS)}")
    known = budgets()
    rows = [row(figure, known[figure.name]) for figure in measured(options.groups or list(GROUPS))]
    show(rows)
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version()}
        document = {**machine, "qemu": build.identity(), "figures": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
