# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a matrix: a verdict a cell, and the exit code of the whole.  Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec
from msgspec import Struct

from cvmlab.base.errors import ConfigError
from cvmlab.matrix.cells import Cell
from cvmlab.results.result import EXIT_CODES, Outcome, Result


SEVERAL_FAILED = 1  # and not for one and the same reason
NOTHING_RAN = 77
INTERRUPTED = 130


class CellVerdict(StrEnum):
    """The word for a cell.  UNSTABLE failed, and has a reason why that is no surprise."""

    PASSED = "passed"
    FAILED = "failed"
    UNSTABLE = "unstable"
    IGNORED = "ignored"
    MISSING = "missing"


class CellResult(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One cell.  ``reason`` is the document's, for unstable and ignored cells; seconds are the host's.

    ``result`` is the boot's own document; None if there was no boot, or it left none.
    """

    number: int
    id: str
    verdict: CellVerdict
    message: str
    exit_code: int = 0
    outcome: Outcome | None = None
    reason: str | None = None
    seconds: float = 0.0
    folder: str | None = None
    result: Result | None = None


class MatrixResult(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run, or what is there of it; ``shards`` are the parts of it that are here."""

    name: str
    digest: str
    exit_code: int
    counts: dict[CellVerdict, int]
    shards: tuple[str, ...] = ()
    cells: tuple[CellResult, ...] = ()


def judged(
    cell: Cell, *, status: int, result: Result | None, said: str, seconds: float, folder: str
) -> CellResult:
    """Return the verdict on a boot that ended with *status*; *said* is its last word.

    A boot that says it is good must have a result that says so, too.
    """
    if status == 0 and (result is None or result.outcome is not Outcome.OK):
        status, said = EXIT_CODES[Outcome.DEFECT], f"the boot left no valid result: {said}"
    if status == 0:
        verdict = CellVerdict.PASSED
    else:
        verdict = CellVerdict.FAILED if cell.unstable is None else CellVerdict.UNSTABLE
    return CellResult(
        number=cell.number,
        id=cell.id,
        verdict=verdict,
        message=result.message if result is not None else said,
        exit_code=status,
        outcome=result.outcome if result is not None else None,
        reason=cell.unstable,
        seconds=round(seconds, 3),
        folder=folder,
        result=result,
    )


def not_run(cell: Cell, verdict: CellVerdict) -> CellResult:
    """Return what there is to say about a cell that is ignored or missing."""
    message = cell.ignored or "was not run"
    return CellResult(
        number=cell.number, id=cell.id, verdict=verdict, message=message, reason=cell.ignored
    )


def combine(name: str, digest: str, cells: Iterable[CellResult]) -> MatrixResult:
    """Sum up the results of *cells*."""
    ordered = tuple(sorted(cells, key=lambda cell: cell.number))
    counts = Counter(cell.verdict for cell in ordered)
    return MatrixResult(
        name=name,
        digest=digest,
        exit_code=exit_code(ordered),
        counts={verdict: counts[verdict] for verdict in CellVerdict},
        cells=ordered,
    )


def exit_code(cells: Sequence[CellResult]) -> int:
    """Return 0 if what ran is well, the code all failures have in common, or 1."""
    if any(cell.verdict is CellVerdict.MISSING for cell in cells):
        return SEVERAL_FAILED
    failures = {cell.exit_code for cell in cells if cell.verdict is CellVerdict.FAILED}
    if failures:
        return failures.pop() if len(failures) == 1 else SEVERAL_FAILED
    ran = any(cell.verdict is not CellVerdict.IGNORED for cell in cells)
    return 0 if ran else NOTHING_RAN


def worse(first: CellResult, second: CellResult) -> CellResult:
    """Return the one of two runs of a cell that must not be forgotten."""
    order = list(CellVerdict)
    badness = {CellVerdict.FAILED: len(order)}
    return max(first, second, key=lambda cell: badness.get(cell.verdict, order.index(cell.verdict)))


def to_json(result: Struct) -> str:
    """Return the document as it is written to files."""
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


def cell_from_json(text: bytes, where: str) -> CellResult:
    """Read one cell's document; raise ConfigError."""
    try:
        return msgspec.json.decode(text, type=CellResult)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{where} is not the result of a cell: {error}",
            hint="`cvmlab matrix --fresh` throws an earlier run away",
        ) from error
