# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab matrix FILE`` and ``cvmlab matrix merge DIR...``."""

import os
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup
from typing_extensions import override

from cvmlab.cli import boot_options as options
from cvmlab.cli.session import INTERRUPTED, run, style_of
from cvmlab.errors import ConfigError


if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvmlab.cells import Cell
    from cvmlab.junit import Case
    from cvmlab.matrix.document import Loaded
    from cvmlab.matrix.folder import Folder, Record
    from cvmlab.matrix.machine import Capacity
    from cvmlab.matrix.running import Pace
    from cvmlab.matrixresult import CellResult, MatrixResult
    from cvmlab.progress import Style


_EPILOG = (
    "Exit codes: 0 all that ran passed, or is unstable; the code of the boots that failed, if it is one; "
    "1 they failed with several, or a cell is missing; 77 every cell is ignored; 85 bad usage or "
    "input; 130 Ctrl-C: start it again and it goes on."
)


class _FileOrCommand(TyperGroup):
    """``matrix FILE`` means ``matrix run FILE``."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args.insert(0, "run")
        return super().parse_args(ctx, args)


matrix = typer.Typer(cls=_FileOrCommand, epilog=_EPILOG, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(matrix, name="matrix", help="Boot many guests in many ways; or merge such runs.")


Junit = Annotated[Path | None, Option(metavar="FILE", help="Write JUnit XML there, too.")]
Tap = Annotated[Path | None, Option(metavar="FILE", help="Write TAP there, too.")]
Json = Annotated[
    str | None,
    Option("--json", metavar="FILE|-", help="Write JSON there, too; the table to stderr."),
]
Markdown = Annotated[Path | None, Option(metavar="FILE", help="Write the summary there, too.")]


@dataclass(frozen=True, slots=True)
class _Copies:
    """Where the summaries go besides the folder."""

    junit: Path | None
    tap: Path | None
    json: str | None
    markdown: Path | None

    @property
    def json_to_stdout(self) -> bool:
        return self.json == "-"

    @property
    def _files(self) -> dict[str, Path]:
        json = Path(self.json) if self.json is not None and not self.json_to_stdout else None
        places = (self.junit, self.tap, self.markdown, json)
        names = ("junit.xml", "matrix.tap", "matrix.md", "matrix.json")
        return {name: path for name, path in zip(names, places, strict=True) if path is not None}

    def require(self) -> None:
        """Raise ConfigError now rather than after hours."""
        for path in self._files.values():
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise ConfigError(f"{path} cannot be written", hint="give a file in a folder")

    def write(self, files: dict[str, str]) -> None:
        for name, path in self._files.items():
            try:
                path.write_text(files[name], encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        if self.json_to_stdout:
            typer.echo(files["matrix.json"], nl=False)


@matrix.command("run", epilog=_EPILOG)
def run_file(
    context: typer.Context,
    file: Annotated[Path, Argument(metavar="FILE", help="TOML; docs/matrix.md describes it.")],
    *,
    run_dir: Annotated[
        Path | None, Option(metavar="DIR", help="Keep all results there; a run goes on from them.")
    ] = None,
    fresh: Annotated[bool, Option("--fresh", help="Throw away what an earlier run left.")] = False,
    shard: Annotated[
        str, Option(metavar="I/N", help="Only the Ith part of N of the cells.")
    ] = "1/1",
    jobs: Annotated[
        int | None, Option(min=1, help="Guests at a time. Default: as many as fit.")
    ] = None,
    scheduler: Annotated[
        str | None, Option(metavar="tcp://HOST:PORT", help="Run on that Dask cluster.")
    ] = None,
    junit: Junit = None,
    tap: Tap = None,
    json: Json = None,
    markdown: Markdown = None,
    dry_run: options.DryRun = False,
    progress: options.Progress = None,
) -> None:
    """Boot every cell of a matrix, or those that are missing; say how it went."""
    from cvmlab.cells import parse_shard
    from cvmlab.cells import shard as part
    from cvmlab.matrix import document, folder
    from cvmlab.matrix.machine import capacity

    loaded = document.load(file)
    copies = _Copies(junit, tap, json, markdown)
    copies.require()
    mine = part(loaded.cells, *parse_shard(shard))
    record = folder.Record(
        name=loaded.matrix.name,
        digest=loaded.digest,
        shard=shard,
        cells=loaded.cells,
        mine=tuple(cell.number for cell in mine),
    )
    if dry_run:
        _show(loaded, record)
        return
    where = run_dir or folder.default_place(record.name, record.digest, shard)
    with folder.Folder.open(where, record, fresh=fresh) as kept:
        room = capacity(jobs or loaded.matrix.run.jobs)
        try:
            _run(kept, room, scheduler, style_of(progress))
            status = _deliver(_result(kept), copies, kept)
        except KeyboardInterrupt:
            typer.echo(f"cvmlab: interrupted; the same command goes on from {kept.path}", err=True)
            status = INTERRUPTED
    context.obj.reported = True
    raise typer.Exit(status)


def _run(kept: "Folder", room: "Capacity", scheduler: str | None, style: "Style") -> None:
    """Run what is missing; raise KeyboardInterrupt if a stop signal ended that."""
    from cvmlab.matrix import running
    from cvmlab.progress import task

    cells = running.missing(kept)
    _say_what_is_known(kept, cells, style)
    if scheduler is None:
        _build(cells, style)
    pace = running.Pace.of(cells)
    with task("matrix", [pace.phase(room)], style=style, stream=sys.stderr) as shown:
        pace.task = shown
        if cells and not run(running.uninterrupted(_work(kept, cells, room, pace, scheduler))):
            raise KeyboardInterrupt


def _result(kept: "Folder") -> "MatrixResult":
    from cvmlab.matrix.running import total

    return total(kept.record, kept.known(), kept.record.mine)


async def _work(
    kept: "Folder", cells: "Sequence[Cell]", room: "Capacity", pace: "Pace", scheduler: str | None
) -> None:
    from cvmlab.matrix import running

    if scheduler is not None:
        from cvmlab.matrix.cluster import run_there

        await run_there(cells, kept, scheduler, pace)
        return
    await running.prepare(cells, kept)
    await running.run_here(cells, kept, room, pace)


def _say_what_is_known(kept: "Folder", cells: "Sequence[Cell]", style: "Style") -> None:
    from cvmlab.progress import Style

    known = len(kept.known())
    if known and style is not Style.NONE:
        typer.echo(f"matrix: {known} cells are known from before, {len(cells)} to run", err=True)


def _build(cells: "Sequence[Cell]", style: "Style") -> None:
    """Build QEMU once, rather than in every boot."""
    own = [any(word.startswith("--qemu=") for word in cell.words) for cell in cells]
    if not all(own) and "CVMLAB_QEMU" not in os.environ:
        from cvmlab.build import install
        from cvmlab.qemu_recipe import Flavour

        install(Flavour.PATCHED, style=style)


def _deliver(result: "MatrixResult", copies: _Copies, kept: "Folder | None") -> int:
    """Print the table and write all summaries; return the exit code."""
    from cvmlab import matrixtext
    from cvmlab.junit import document
    from cvmlab.matrixresult import to_json

    files = {
        "junit.xml": document([_case(cell) for cell in result.cells], name=result.name),
        "matrix.tap": matrixtext.tap(result),
        "matrix.md": matrixtext.markdown(result),
        "matrix.json": to_json(result),
    }
    if kept is not None:
        kept.write(files.items())
    copies.write(files)
    typer.echo(matrixtext.text(result), nl=False, err=copies.json_to_stdout)
    if kept is not None:
        typer.echo(f"results: {kept.path}", err=copies.json_to_stdout)
    return result.exit_code


def _case(cell: "CellResult") -> "Case":
    """Return the JUnit case of a cell: what is ignored or unstable is skipped, with its reason."""
    from cvmlab.junit import Case, Failure
    from cvmlab.matrixresult import Verdict
    from cvmlab.report import render

    skipped = {
        Verdict.IGNORED: f"ignored: {cell.message}",
        Verdict.UNSTABLE: f"unstable: {cell.reason}; {cell.message}",
    }
    failed = cell.verdict in (Verdict.FAILED, Verdict.MISSING)
    return Case(
        name=cell.id,
        group=f"cvmlab.{cell.id.split('/')[1]}",
        seconds=cell.seconds,
        report=render(cell.result) if cell.result is not None else cell.message,
        failure=Failure(kind=cell.outcome or cell.verdict, message=cell.message, text=cell.message)
        if failed
        else None,
        skipped=skipped.get(cell.verdict),
    )


def _show(loaded: "Loaded", record: "Record") -> None:
    """Print the cells, and check that each guest is there."""
    from cvmlab.matrix import cellrun

    chosen = [cell for cell in loaded.cells if cell.number in record.mine]
    for cell in chosen:
        why = f"  ignored: {cell.ignored}" if cell.ignored else ""
        doubt = f"  unstable: {cell.unstable}" if cell.unstable and not why else ""
        typer.echo(f"{cell.folder} {cell.id}{why}{doubt}")
        if not why:
            typer.echo(f"    cvmlab boot {shlex.join(cell.words)}")
    with tempfile.TemporaryDirectory() as folder:
        for cell in {cell.axis.guest: cell for cell in chosen if not cell.ignored}.values():
            run(cellrun.check(cell, Path(folder)))


@matrix.command("merge", epilog=_EPILOG)
def merge(
    context: typer.Context,
    folders: Annotated[list[Path], Argument(metavar="DIR...", help="The --run-dir of each shard.")],
    *,
    junit: Junit = None,
    tap: Tap = None,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Make one result of the shards that several machines have run."""
    from cvmlab.matrix.merging import merged

    copies = _Copies(junit, tap, json, markdown)
    copies.require()
    status = _deliver(merged(folders), copies, None)
    context.obj.reported = True
    raise typer.Exit(status)
