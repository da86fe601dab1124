# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell is one ``cvmlab boot``, a process of its own, that ends with us whatever happens."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cvmlab.base.errors import ConfigError, CvmError, DeadlineExceeded
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.verdict import CellResult, judged
from cvmlab.results.result import from_json
from cvmlab.runs.run_dir import claim
from cvmlab.vm.process import QemuProcess, log_tail
from cvmlab.vm.vm import WAIT_TIMEOUT_S


REPORT = "report.txt"
RESULT = "result.json"
# Beyond the boot's own limit: to fetch and build what is missing, to drain, to stop.
GRACE_S = 300.0
_STOP_S = 20.0
_CHECK_S = 600.0  # fetching a kernel is part of it
_OURS = "cvmlab: "


def command(words: Sequence[str], *more: str) -> list[str]:
    """Return the command line of a boot."""
    return [sys.executable, "-m", "cvmlab", "boot", *words, "--progress=none", *more]


async def run(cell: Cell, folder: Path) -> CellResult:
    """Boot *cell* in *folder* and return its verdict; cancelled, it stops the guest first."""
    started = time.monotonic()
    claim(folder)
    (folder / RESULT).unlink(missing_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    status = await _finish(
        command(cell.words, f"--run-dir={folder}", f"--json={folder / RESULT}"),
        folder / REPORT,
        (cell.timeout_s or WAIT_TIMEOUT_S) + GRACE_S,
    )
    return verdict(cell, folder, status, time.monotonic() - started)


def verdict(cell: Cell, folder: Path, status: int | None, seconds: float) -> CellResult:
    """Read what a boot left in *folder* and judge; *status* None: it had to be stopped."""
    said = last_word(folder / REPORT)
    result = None
    if status is None:
        status, said = DeadlineExceeded.exit_code, "the boot did not end within its time limit"
    else:
        with suppress(OSError, CvmError):  # it said why on standard error
            result = from_json((folder / RESULT).read_bytes())
    code = status if status >= 0 else 128 - status
    return judged(cell, status=code, result=result, said=said, seconds=seconds, folder=str(folder))


async def check(cell: Cell, folder: Path) -> None:
    """Fetch what *cell* boots and check its options; raise ConfigError with what is wrong."""
    report = folder / "check.txt"
    report.unlink(missing_ok=True)
    if await _finish(command(cell.words, "--dry-run"), report, _CHECK_S) != 0:
        raise ConfigError(f"cell {cell.id} cannot boot: {last_word(report)}", hint=_hint(report))


async def _finish(argv: Sequence[str], log: Path, timeout_s: float) -> int | None:
    """Run *argv* to its end and return its status, or None if it took too long."""
    process = QemuProcess(argv, pass_fds=(), log_path=log)
    try:
        return await process.wait_for(timeout_s)
    finally:
        try:
            if process.status is None:
                await process.terminate(timeout_s=_STOP_S)
        finally:
            process.kill()


def last_word(report: Path) -> str:
    """Return the error that a command ended with, or its last line."""
    lines = [line for line in log_tail(report) if line.strip()]
    errors = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    return (errors or lines or ["it said nothing"])[-1]


def _hint(report: Path) -> str | None:
    hints = [line for line in log_tail(report) if line.startswith("hint: ")]
    return hints[-1].removeprefix("hint: ") if hints else None
