# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab runs``: the run folders that boots have left."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import Command, CommandGroup


if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvmlab.runs.kept_runs import KeptRun

_DAY_S = 24 * 3600

runs = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    epilog="A boot that fails keeps its run folder, and so does one with --keep.",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(runs, name="runs", help="List and remove the run folders of earlier boots.")


@runs.command("list", cls=Command)
def list_runs(*, json_: Annotated[bool, Option("--json", help="Print JSON")] = False) -> None:
    """List the run folders, the oldest first, with how each boot ended."""
    from cvmlab.runs.kept_runs import kept_runs

    rows = [_row(run) for run in kept_runs()]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    line = "{:<24}{:<14}{:>8}{:>10}  {}"
    typer.echo(line.format("FOLDER", "PROFILE", "AGE", "SIZE", "ENDED"))
    for row in rows:
        told = safe(
            line.format(*(row[name] for name in ("folder", "coco", "age", "size", "ended")))
        )
        typer.echo(told)


def _row(run: "KeptRun") -> dict[str, Any]:
    size = run.size_bytes
    return {
        "folder": run.path.name,
        "name": None if run.info is None else run.info.name,
        "coco": "" if run.info is None else run.info.coco,
        "age": _age(run.age_s),
        "age_s": round(run.age_s, 1),
        "size": f"{size / (1 << 20):.1f} MiB",
        "size_bytes": size,
        "ended": _ended(run),
        "path": str(run.path),
    }


def _age(seconds: float) -> str:
    for name, unit in (("d", _DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _ended(run: "KeptRun") -> str:
    """Return how the boot ended, in its own words."""
    from cvmlab.base.errors import CvmError
    from cvmlab.results.result import from_json

    if run.in_use:
        return "running"
    try:
        result = from_json((run.path / "result.json").read_bytes())
    except (OSError, CvmError):
        return "no result"
    return f"{result.outcome} ({result.exit_code})"


@runs.command(cls=Command)
def rm(
    folders: Annotated[list[str], Argument(metavar="FOLDER...", help="Names of run folders")],
) -> None:
    """Remove run folders."""
    from cvmlab.runs.kept_runs import named

    _remove([named(folder) for folder in folders])


@runs.command(cls=Command)
def prune(
    *,
    older_than: Annotated[
        float | None,
        Option(metavar="DAYS", min=0, help="Only those that ended DAYS ago or earlier"),
    ] = None,
    keep: Annotated[int, Option(metavar="N", min=0, help="Keep the N newest (default: 0)")] = 0,
    dry_run: Annotated[bool, Option("--dry-run", help="Print what would be removed")] = False,
) -> None:
    """Remove the run folders of all VMs that have ended."""
    from cvmlab.runs.kept_runs import kept_runs

    ended = [run for run in kept_runs() if not run.in_use]
    chosen = ended[: len(ended) - keep] if keep else ended
    if older_than is not None:
        chosen = [run for run in chosen if run.age_s >= older_than * _DAY_S]
    _remove(chosen, really=not dry_run)


def _remove(chosen: "Iterable[KeptRun]", *, really: bool = True) -> None:
    number = freed = 0
    for run in chosen:
        size = run.size_bytes
        if really:
            run.remove()
        number, freed = number + 1, freed + size
        typer.echo(safe(f"{'removed' if really else 'would remove'} {Path(run.path).name}"))
    verb = "freed" if really else "to free"
    folders = f"{number} run folder{'s' if number != 1 else ''}"
    typer.echo(f"{folders}, {freed / (1 << 20):.1f} MiB {verb}")
