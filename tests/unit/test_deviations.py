# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/deviations.md is what ``python -m tests.deviations`` prints."""

from pathlib import Path

from tests.deviations import KINDS, document, of_tables
from tests.guest_tables import TECHNOLOGIES, tables


def test_the_document_is_made_of_the_data() -> None:
    path = Path(__file__).parents[2] / "docs" / "deviations.md"
    assert path.read_text(encoding="utf-8") == document()


def test_each_deviation_has_a_line() -> None:
    for technology in TECHNOLOGIES:
        lines = list(of_tables(technology))
        for rows in tables(technology).values():
            for row in rows:
                if "deviation" in row:
                    assert any(row["deviation"].replace("|", "/") in line for line in lines)


def test_each_kind_of_row_with_deviations_has_a_heading() -> None:
    kinds = {
        kind
        for technology in TECHNOLOGIES
        for kind, rows in tables(technology).items()
        if any("deviation" in row for row in rows)
    }
    assert kinds <= set(KINDS)
