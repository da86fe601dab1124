# SPDX-License-Identifier: GPL-2.0-or-later
"""Run cells on a Dask cluster: each is a task of one thread of some worker.

A worker that dies takes its guests with it, and Dask runs their cells elsewhere.  Guests' own files
must be at the same path on every worker; what the boot says comes back, its events stay there.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from cvmlab.base.errors import ConfigError, DeadlineExceeded, InvariantError
from cvmlab.matrix import cell_run
from cvmlab.matrix.cells import Cell
from cvmlab.matrix.folder import Folder
from cvmlab.matrix.running import Pace
from cvmlab.matrix.verdict import CellResult, judged
from cvmlab.vm.vm import WAIT_TIMEOUT_S


_CONNECT_S = 10.0
_FETCHED = (cell_run.REPORT, cell_run.RESULT, "console.log")
_FETCHED_BYTES = 1 << 20  # of each file, at most
_LOST = 84  # as for a QEMU that died

# What runs in this process when it is a worker: by the run's token, so that the run can stop it.
_here: dict[str, set[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any]"]]] = {}


class _WorkerAnswer(msgspec.Struct):
    """What a worker sends back."""

    result: CellResult
    files: dict[str, bytes]


def boot_there(cell: bytes, token: str) -> bytes:
    """Boot a cell; this runs in a thread of a worker."""
    return asyncio.run(_boot(msgspec.json.decode(cell, type=Cell), token))


async def _boot(cell: Cell, token: str) -> bytes:
    task = asyncio.current_task()
    if task is None:
        raise InvariantError("a cell was booted outside a task")
    entry = (asyncio.get_running_loop(), task)
    _here.setdefault(token, set()).add(entry)
    try:
        with tempfile.TemporaryDirectory(prefix="cvmlab-") as name:
            result = await cell_run.run(cell, Path(name))
            files = {file: _read(Path(name) / file) for file in _FETCHED}
            return msgspec.json.encode(_WorkerAnswer(result, files))
    finally:
        _here[token].discard(entry)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()[-_FETCHED_BYTES:]
    except OSError:
        return b""


def stop_there(token: str) -> None:
    """Stop what this worker runs for *token*; returns before it has ended."""
    for loop, task in list(_here.get(token, ())):
        with suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(task.cancel)


async def run_there(cells: Sequence[Cell], folder: Folder, address: str, pace: Pace) -> None:
    """Run *cells* on the cluster at *address*, and keep each verdict as it comes.

    Cancelled, it stops the guests on all workers.  Raises ConfigError if there is no such cluster
    and DeadlineExceeded if it does nothing any more.
    """
    token = f"{folder.record.digest[:16]}-{os.getpid()}"
    patience_s = max((cell.timeout_s or WAIT_TIMEOUT_S) for cell in cells) + cell_run.GRACE_S
    async with _client(address) as client:
        tasks = {
            asyncio.ensure_future(
                _ask(client.submit(
                    boot_there, msgspec.json.encode(cell), token,
                    key=f"cvmlab-{token}-{cell.number}", pure=False,
                ))
            ): cell
            for cell in cells
        }  # fmt: skip
        try:
            while tasks:
                ended, _ = await asyncio.wait(
                    tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    raise DeadlineExceeded(f"a cell to end on {address}", patience_s)
                for task in ended:
                    result = _kept(tasks.pop(task), task.result(), folder)
                    folder.keep(result)
                    pace.ended(result)
        finally:
            if tasks:
                await asyncio.shield(client.run(stop_there, token))
            for task in tasks:
                task.cancel()


async def _ask(future: Any) -> _WorkerAnswer | str:
    """Return the worker's answer, or why there is none."""
    try:
        return msgspec.json.decode(await future, type=_WorkerAnswer)
    except Exception as error:  # noqa: BLE001 - whatever a worker raises is what happened to the cell
        return f"the cluster did not run this cell: {error}"


def _kept(cell: Cell, answer: _WorkerAnswer | str, folder: Folder) -> CellResult:
    """Write what came back into the cell's folder here."""
    here = folder.of(cell)
    if isinstance(answer, str):
        return judged(cell, status=_LOST, result=None, said=answer, seconds=0, folder=str(here))
    for name, content in answer.files.items():
        (here / name).write_bytes(content)
    return msgspec.structs.replace(answer.result, folder=str(here))


@asynccontextmanager
async def _client(address: str) -> AsyncIterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            "--scheduler needs Dask, which is not installed", hint="pip install 'cvmlab[dask]'"
        ) from error
    try:
        client = await Client(address, asynchronous=True, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler: no Dask cluster answers at {address}",
            hint="start one with `dask scheduler`, and `dask worker` on each machine",
        ) from error
    try:
        await _require_workers(client, address)
        yield client
    finally:
        await client.close()


async def _require_workers(client: Any, address: str) -> None:
    try:
        await client.wait_for_workers(1, timeout=_CONNECT_S)
    except TimeoutError as error:
        raise ConfigError(
            f"--scheduler: {address} has no workers",
            hint=f"`dask worker {address}` on each machine",
        ) from error
