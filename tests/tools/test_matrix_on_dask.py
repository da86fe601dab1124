# SPDX-License-Identifier: GPL-2.0-or-later
"""A matrix on a real Dask cluster of two worker processes; one of them is killed half-way."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fakes import matrices
from tests.fakes.matrices import BOOTED, HANGS
from tests.guest.program import cvmlab, finish, start, wait_for_text


DEADLINE_S = 120.0
GUESTS = ("one", "two", "three", "four")


@contextmanager
def running(*words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of Dask's; it is killed in the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=out, stderr=out, start_new_session=True
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Give the address of a scheduler, and its two workers of one thread each."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.delenv("CVMLAB_QEMU", raising=False)
    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        stack.enter_context(
            running(
                "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                "--no-dashboard", "--scheduler-file", str(file), log=tmp_path / "scheduler.log",
            )
        )  # fmt: skip
        wait_for_text(file, "}")
        address = json.loads(file.read_text())["address"]
        workers = [
            stack.enter_context(
                running(
                    "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                    "--memory-limit", "0", "--no-dashboard",
                    "--local-directory", str(tmp_path / name), log=tmp_path / f"{name}.log",
                )
            )
            for name in ("first", "second")
        ]  # fmt: skip
        for name in ("first", "second"):
            wait_for_text(tmp_path / f"{name}.log", "Registered to")
        yield address, workers


def wait_for_starts(logs: list[Path], number: int) -> list[int]:
    """Wait until that many guests have been started; return their process ids."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = [int(line) for log in logs if log.exists() for line in log.read_text().split()]
        if len(found) >= number:
            return found
        signal.sigtimedwait((), 0.05)
    raise AssertionError(f"{number} guests were not started within {DEADLINE_S} s")


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        signal.sigtimedwait((), 0.05)


def test_cells_of_a_killed_worker_run_again_elsewhere(
    tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = cluster
    document = matrices.write(tmp_path, dict.fromkeys(GUESTS, BOOTED))
    gate = tmp_path / "gate"
    logs = [matrices.started_log(tmp_path, guest, gate) for guest in GUESTS]
    kept = tmp_path / "kept"

    with start("matrix", str(document), "--scheduler", address, "--run-dir", str(kept)) as process:
        first = wait_for_starts(logs, 2)
        workers[0].kill()
        workers[0].wait()
        gate.touch()
        done = finish(process)

    assert done.code == 0, done.err
    assert "fake: 4 cells, 4 passed" in done.out
    assert len(wait_for_starts(logs, len(GUESTS) + 1)) == len(GUESTS) + 1
    wait_for_end(first)
    assert "6.12.1" in (kept / "cells" / "001" / "result.json").read_text()
    assert "FAILED" not in (kept / "cells" / "001" / "report.txt").read_text()


def test_ctrl_c_stops_the_guests_on_the_workers(
    tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, _ = cluster
    document = matrices.write(tmp_path, {"one": HANGS, "two": HANGS})
    gate = tmp_path / "gate"
    gate.touch()
    logs = [matrices.started_log(tmp_path, guest, gate) for guest in ("one", "two")]

    with start("matrix", str(document), "--scheduler", address) as process:
        pids = wait_for_starts(logs, 2)
        process.send_signal(signal.SIGINT)
        done = finish(process)

    assert done.code == 130, done.err
    wait_for_end(pids)


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    document = matrices.write(tmp_path, {"one": BOOTED})

    done = cvmlab("matrix", str(document), "--scheduler", "tcp://127.0.0.1:1")

    assert (done.code, "no Dask cluster answers at tcp://127.0.0.1:1" in done.err) == (85, True)
