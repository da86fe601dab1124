# SPDX-License-Identifier: GPL-2.0-or-later
"""Write how long each level of the tests takes into tests/README.md: ``python -m tests.durations``.

Run ``./cvmlab test`` before.  Levels that the last run did not include, or that failed in it, keep
their row.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.cli.selftest import report_file
from cvmlab.testing.level_durations import LevelDuration, durations


ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "tests" / "README.md"
BEGIN, END = "<!-- durations:begin -->", "<!-- durations:end -->"
_ROW = re.compile(r"^\| `(?P<level>[^`]+)` \| (?P<seconds>\d+) \|$", re.MULTILINE)


def replaced(text: str, levels: Iterable[LevelDuration], cpus: int) -> str:
    """Return *text* with the table between the markers updated; raise ConfigError without them."""
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not end:
        raise ConfigError(
            "tests/README.md has no place for the durations",
            hint=f"add the lines {BEGIN} and {END}",
        )
    rows = {row["level"]: int(row["seconds"]) for row in _ROW.finditer(old)}
    rows |= {one.level: round(one.seconds) for one in levels if one.passed}
    return "\n".join([before + begin, "", *_lines(rows, cpus), "", end + after])


def _lines(rows: dict[str, int], cpus: int) -> Iterator[str]:
    machine = f"a machine with {cpus} CPU{'s' if cpus != 1 else ''}"
    yield f"Seconds on {machine}, with both QEMUs built before.  To update them, run `./cvmlab test`,"
    yield "then `.venv/bin/python -m tests.durations`."
    yield ""
    yield "| level | seconds |"
    yield "|---|---|"
    yield from (f"| `{level}` | {seconds} |" for level, seconds in rows.items())
    yield f"| all | {sum(rows.values())} |"


def main() -> int:
    """Update tests/README.md."""
    report = report_file(ROOT)
    if not report.exists():
        sys.stderr.write("there is no report of a test run; run ./cvmlab test first\n")
        return 1
    levels = durations(report.read_text())
    try:
        README.write_text(replaced(README.read_text(), levels, os.cpu_count() or 1))
    except ConfigError as error:
        sys.stderr.write(f"{error.message}; {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
