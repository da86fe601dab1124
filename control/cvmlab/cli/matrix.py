# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab matrix FILE`` and ``cvmlab matrix merge DIR...``."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typing_extensions import override

from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.base.safe_text import safe
from cvmlab.base.stop_signals import INTERRUPTED
from cvmlab.cli.help_text import Command, CommandGroup, sections, write
from cvmlab.cli.row_parameters import option
from cvmlab.cli.session import run, style_of


if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvmlab.base.progress import Style
    from cvmlab.matrix.capacity import Capacity
    from cvmlab.matrix.cells import Cell
    from cvmlab.matrix.document import Loaded
    from cvmlab.matrix.folder import Folder, Record
    from cvmlab.matrix.running import Pace
    from cvmlab.matrix.verdict import CellResult, MatrixResult
    from cvmlab.profiles.architecture import Architecture
    from cvmlab.report.junit import Case


_EPILOG = (
    "Exit codes: 0 every cell that ran passed or is unstable; the exit code of the failed boots if "
    "they share one; 1 if they do not, or if a cell is missing; 77 every cell is ignored; 85 bad "
    "usage or input; 130 Ctrl-C (run the same command again to continue)."
)


class _FileOrCommand(CommandGroup):
    """``matrix FILE`` means ``matrix run FILE``, so its help has what ``run`` takes."""

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        write(formatter, sections(self.commands["run"], ctx))
        self.format_commands(ctx, formatter)

    @override
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS] FILE | merge DIR..."]

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args.insert(0, "run")
        return super().parse_args(ctx, args)


matrix = typer.Typer(cls=_FileOrCommand, epilog=_EPILOG, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(
        matrix,
        name="matrix",
        help="Boot every cell of a matrix file, or merge the runs of several.",
    )


Junit = Annotated[Path | None, Option(metavar="FILE", help="Also write JUnit XML to FILE")]
Tap = Annotated[Path | None, Option(metavar="FILE", help="Also write TAP to FILE")]
Json = Annotated[
    str | None,
    Option(
        "--json",
        metavar="FILE|-",
        help="Also write JSON to FILE, or to standard output and the table to standard error",
    ),
]
Markdown = Annotated[
    Path | None, Option(metavar="FILE", help="Also write a Markdown summary to FILE")
]


@dataclass(frozen=True, slots=True)
class _Copies:
    """Where copies of the summaries go."""

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
                raise ConfigError(
                    f"{path} cannot be written",
                    hint="give the path of a file in a folder that exists",
                )

    def write(self, files: dict[str, str]) -> None:
        for name, path in self._files.items():
            try:
                path.write_text(files[name], encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        if self.json_to_stdout:
            typer.echo(files["matrix.json"], nl=False)


@matrix.command("run", cls=Command, epilog=_EPILOG)
def run_file(
    context: typer.Context,
    file: Annotated[
        Path, Argument(metavar="FILE", help="Matrix file in TOML; docs/matrix.md describes it")
    ],
    *,
    run_dir: Annotated[
        Path | None,
        Option(metavar="DIR", help="Keep results in DIR; an interrupted run continues from there"),
    ] = None,
    fresh: Annotated[bool, Option("--fresh", help="Discard the results of an earlier run")] = False,
    shard: Annotated[
        str, Option(metavar="I/N", help="Run only part I of N parts of the cells")
    ] = "1/1",
    jobs: Annotated[
        int | None,
        Option(
            metavar="N", min=1, help="Guests that run at the same time (default: as many as fit)"
        ),
    ] = None,
    scheduler: Annotated[
        str | None, Option(metavar="tcp://HOST:PORT", help="Run on this Dask cluster")
    ] = None,
    junit: Junit = None,
    tap: Tap = None,
    json: Json = None,
    markdown: Markdown = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check everything and print the cells with their commands")
    ] = False,
    progress: Annotated[str | None, option("progress")] = None,
) -> None:
    """Boot the cells of a matrix file that have no result yet."""
    from cvmlab.matrix import document, folder
    from cvmlab.matrix.capacity import capacity
    from cvmlab.matrix.cells import parse_shard
    from cvmlab.matrix.cells import shard as part

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
            typer.echo(
                f"cvmlab: interrupted; the same command continues from {kept.path}", err=True
            )
            status = INTERRUPTED
    context.obj.reported = True
    raise typer.Exit(status)


def _run(kept: "Folder", room: "Capacity", scheduler: str | None, style: "Style") -> None:
    """Run what is missing; raise KeyboardInterrupt if a stop signal ended that."""
    from cvmlab.base.progress import task
    from cvmlab.matrix import running

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
    from cvmlab.base.progress import Style

    known = len(kept.known())
    if known and style is not Style.NONE:
        typer.echo(
            f"matrix: {known} cells have a result from before, {len(cells)} to run", err=True
        )


def _build(cells: "Sequence[Cell]", style: "Style") -> None:
    """Build each QEMU once, rather than in every boot."""
    from cvmlab.profiles.architecture import ARCHITECTURES

    own = [cell for cell in cells if _option(cell, "--qemu=") is None]
    wanted = {(_option(cell, "--qemu-version="), _guest(cell)) for cell in own}
    rows = {guest: _architecture(*guest) for _, guest in wanted}  # a kernel is read once
    for row in ARCHITECTURES:
        versions = {version for version, guest in wanted if rows[guest] is row}
        if row.qemu_variable in os.environ:
            versions.discard(None)
        for version in sorted(versions, key=lambda name: name or ""):
            from cvmlab.qemu.build import install
            from cvmlab.qemu.recipe import Flavour

            install(Flavour.PATCHED, version, style=style, architecture=row)


def _guest(cell: "Cell") -> tuple[str | None, str | None, str | None, str]:
    """Return what says the architecture of a cell's guest: image, ``--arch``, ``--kernel``, profile."""
    first = cell.words[0]
    image = None if first.startswith("-") else first
    return image, _option(cell, "--arch="), _option(cell, "--kernel="), cell.axis.coco


def _architecture(
    image: str | None, arch: str | None, kernel: str | None, coco: str
) -> "Architecture":
    """Return the architecture of a guest; what is wrong with it, its boot will say."""
    from cvmlab.boot.guest_architecture import architecture_of
    from cvmlab.images.kernel_tree import kernel_file
    from cvmlab.profiles.architecture import ARCHITECTURES
    from cvmlab.profiles.profile_rows import PROFILES

    profile = PROFILES[coco]
    said: dict[str, object] = {} if image is None else {"image": image}
    try:
        if arch is not None:
            said["arch"] = ARCHITECTURES.choose("--arch", arch)
        if kernel is not None:
            said["kernel"] = kernel_file(Path(kernel))
        return architecture_of(said, profile)
    except CvmError:
        return profile.default_architecture


def _option(cell: "Cell", name: str) -> str | None:
    """Return the value of the option that starts with *name*, None if the cell has none."""
    given = [word.removeprefix(name) for word in cell.words if word.startswith(name)]
    return given[-1] if given else None


def _deliver(result: "MatrixResult", copies: _Copies, kept: "Folder | None") -> int:
    """Print the table and write all summaries; return the exit code."""
    from cvmlab.matrix import result_text as matrixtext
    from cvmlab.matrix.verdict import to_json
    from cvmlab.report.junit import document

    files = {
        "junit.xml": document([_case(cell) for cell in result.cells], name=result.name),
        "matrix.tap": matrixtext.tap(result),
        "matrix.md": matrixtext.markdown(result),
        "matrix.json": to_json(result),
    }
    if kept is not None:
        kept.write(files.items())
    copies.write(files)
    typer.echo(safe(matrixtext.text(result)), nl=False, err=copies.json_to_stdout)
    if kept is not None:
        typer.echo(f"results: {kept.path}", err=copies.json_to_stdout)
    return result.exit_code


def _case(cell: "CellResult") -> "Case":
    """Return the JUnit case of a cell: what is ignored or unstable is skipped, with its reason."""
    from cvmlab.matrix.verdict import CellVerdict
    from cvmlab.report.junit import Case, Failure
    from cvmlab.report.text import render

    skipped = {
        CellVerdict.IGNORED: f"ignored: {cell.message}",
        CellVerdict.UNSTABLE: f"unstable: {cell.reason}; {cell.message}",
    }
    failed = cell.verdict in (CellVerdict.FAILED, CellVerdict.MISSING)
    return Case(
        name=cell.id,
        group=f"cvmlab.{cell.id.split('/')[1]}",
        seconds=cell.seconds,
        report=render(cell.result) if cell.result is not None else cell.message,
        failure=Failure(
            kind=cell.outcome or cell.verdict,
            message=cell.message,
            text=(cell.result.hint if cell.result is not None else None) or cell.message,
        )
        if failed
        else None,
        skipped=skipped.get(cell.verdict),
        counts=cell.result.counters.as_dict() if cell.result is not None else {},
    )


def _show(loaded: "Loaded", record: "Record") -> None:
    """Print the cells, and check that each guest is there."""
    from tempfile import TemporaryDirectory

    from cvmlab.matrix import cell_run

    chosen = [cell for cell in loaded.cells if cell.number in record.mine]
    for cell in chosen:
        why = f"  ignored: {cell.ignored}" if cell.ignored else ""
        doubt = f"  unstable: {cell.unstable}" if cell.unstable and not why else ""
        typer.echo(f"{cell.folder} {cell.id}{why}{doubt}")
        if not why:
            typer.echo(f"    cvmlab boot {shlex.join(cell.words)}")
    with TemporaryDirectory() as folder:
        for cell in {cell.axis.guest: cell for cell in chosen if not cell.ignored}.values():
            run(cell_run.check(cell, Path(folder)))


@matrix.command("merge", cls=Command, epilog=_EPILOG)
def merge(
    context: typer.Context,
    folders: Annotated[list[Path], Argument(metavar="DIR...", help="The --run-dir of each shard")],
    *,
    junit: Junit = None,
    tap: Tap = None,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Merge the results of shards that ran on several machines."""
    from cvmlab.matrix.merging import merged

    copies = _Copies(junit, tap, json, markdown)
    copies.require()
    status = _deliver(merged(folders), copies, None)
    context.obj.reported = True
    raise typer.Exit(status)
