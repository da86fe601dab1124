# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts of a matrix, its exit code, and how CI systems are told."""

import pytest

from cvmlab.matrix import result_text as matrixtext
from cvmlab.matrix.cells import Axis, Cell
from cvmlab.matrix.verdict import (
    CellResult,
    CellVerdict,
    MatrixResult,
    combine,
    exit_code,
    judged,
    worse,
)
from tests.fakes import journals


AXIS = Axis(
    guest="g", coco="generic", firmware="seabios", on_host_access="deny", cpus=1, memory="1G"
)


def cell(verdict: CellVerdict, code: int = 0, **fields: object) -> CellResult:
    values: dict[str, object] = {"number": 1, "id": "g/tdx", "message": "it | was # so"}
    return CellResult(**{**values, "verdict": verdict, "exit_code": code, **fields})  # type: ignore[arg-type]


PASSED, IGNORED = cell(CellVerdict.PASSED), cell(CellVerdict.IGNORED)
UNSTABLE = cell(CellVerdict.UNSTABLE, 80, reason="race in the guest")


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ([PASSED, IGNORED], 0),
        ([PASSED, UNSTABLE], 0),
        ([UNSTABLE], 0),
        ([IGNORED], 77),
        ([], 77),
        ([PASSED, cell(CellVerdict.FAILED, 82)], 82),
        ([cell(CellVerdict.FAILED, 82), cell(CellVerdict.FAILED, 82)], 82),
        ([cell(CellVerdict.FAILED, 82), cell(CellVerdict.FAILED, 80)], 1),
        ([PASSED, cell(CellVerdict.MISSING)], 1),
    ],
)
def test_the_exit_code_is_what_the_failures_have_in_common(
    cells: list[CellResult], code: int
) -> None:
    assert exit_code(cells) == code


@pytest.mark.parametrize(
    ("unstable", "status", "verdict"),
    [
        (None, 0, CellVerdict.PASSED),
        (None, 80, CellVerdict.FAILED),
        ("why", 0, CellVerdict.PASSED),
        ("why", 80, CellVerdict.UNSTABLE),
    ],
)
def test_an_unstable_cell_may_fail_and_is_said_to(
    unstable: str | None, status: int, verdict: CellVerdict
) -> None:
    boot = Cell(number=1, axis=AXIS, words=(), timeout_s=None, memory_bytes=0, unstable=unstable)

    left = journals.result() if status == 0 else None
    made = judged(boot, status=status, result=left, said="no result", seconds=1, folder="f")

    assert (made.verdict, made.reason) == (verdict, unstable)
    assert made.message == (left.message if left is not None else "no result")


def test_a_boot_without_a_result_has_not_passed_whatever_it_says() -> None:
    boot = Cell(number=1, axis=AXIS, words=(), timeout_s=None, memory_bytes=0)

    made = judged(boot, status=0, result=None, said="OK", seconds=1, folder="f")

    assert (made.verdict, made.exit_code) == (CellVerdict.FAILED, 86)
    assert made.message == "the boot left no valid result: OK"


@pytest.mark.parametrize("other", [PASSED, UNSTABLE, IGNORED])
def test_of_two_runs_the_failure_counts(other: CellResult) -> None:
    failed = cell(CellVerdict.FAILED, 80)

    assert worse(failed, other) is worse(other, failed) is failed


def all_kinds() -> MatrixResult:
    kinds = [PASSED, cell(CellVerdict.FAILED, 80), UNSTABLE, IGNORED, cell(CellVerdict.MISSING)]
    return combine("nightly", "abc", kinds)


def test_tap_tells_the_ignored_and_the_unstable() -> None:
    assert matrixtext.tap(all_kinds()).splitlines() == [
        "TAP version 13",
        "1..5",
        "ok 1 - g/tdx",
        "not ok 2 - g/tdx",
        "# it | was \\# so",
        "not ok 3 - g/tdx # TO" + "DO race in the guest",
        "# it | was \\# so",
        "ok 4 - g/tdx # SKIP it | was \\# so",
        "not ok 5 - g/tdx",
        "# it | was \\# so",
    ]


def test_markdown_is_a_table_whose_cells_hold() -> None:
    lines = matrixtext.markdown(all_kinds()).splitlines()

    assert lines[0] == "### nightly: not passed"
    assert "| g/tdx | unstable | 0.0 | it \\| was # so (unstable: race in the guest) |" in lines
    assert len(lines) == 6 + 5


def test_the_text_ends_with_the_counts_and_the_exit_code() -> None:
    shown = matrixtext.text(all_kinds())

    assert shown.endswith(
        "nightly: 5 cells, 1 passed, 1 failed, 1 unstable, 1 ignored, 1 missing (exit code 1)\n"
    )
    assert "ignored g/tdx: it | was # so" in shown
