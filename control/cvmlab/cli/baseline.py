# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab baseline update`` and ``cvmlab baseline check``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cvmlab.base.errors import BudgetExceeded, ConfigError
from cvmlab.cli.help_text import Command, CommandGroup


if TYPE_CHECKING:
    from cvmlab.results.result import Result


baseline = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    epilog="Exit codes: 0 counts did not grow, 80 counts grew, 85 bad usage or input.",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(baseline, name="baseline", help="Compare counts with those of earlier boots.")


File = Annotated[Path, Argument(metavar="FILE", help="Baseline file")]
Results = Annotated[
    list[Path], Argument(metavar="RESULT.json...", help="Files that `cvmlab boot --json` wrote")
]


@baseline.command(cls=Command)
def update(
    file: File,
    results: Results,
    *,
    percent: Annotated[
        int | None,
        Option(
            metavar="N", min=0, help="A count may grow by N percent without failing (default: 10)"
        ),
    ] = None,
    pages: Annotated[
        int | None,
        Option(
            metavar="N", min=0, help="A count may grow by N pages without failing (default: 64)"
        ),
    ] = None,
) -> None:
    """Record the counts of these boots. If several are alike, the highest count is recorded."""
    import msgspec

    from cvmlab.results import baselines
    from cvmlab.results.baseline_file import load, save

    known = load(file) if file.exists() else baselines.Baselines()
    given = {"percent": percent, "pages": pages}
    changed = {name: value for name, value in given.items() if value is not None}
    tolerance = msgspec.structs.replace(known.tolerance, **changed)
    known = msgspec.structs.replace(known, tolerance=tolerance)
    read = [_result(path) for path in results]
    save(file, baselines.updated(known, read))
    for name in dict.fromkeys(map(baselines.key_of, read)):
        typer.echo(f"{file}: recorded {name}")


@baseline.command(cls=Command)
def check(file: File, results: Results) -> None:
    """Fail with exit code 80 if the counts of any of these boots exceed its baseline."""
    from cvmlab.results import baselines
    from cvmlab.results.baseline_file import load

    known = load(file)
    found: list[str] = []
    for path in results:
        result = _result(path)
        name = baselines.key_of(result)
        more = list(baselines.regressions(known.entry(name, str(file)), known.tolerance, result))
        found += [f"{name}: {sentence}" for sentence in more]
        typer.echo(f"{name}: {'exceeds its baseline' if more else 'within its baseline'}")
    if found:
        raise BudgetExceeded(
            "\n".join(found), hint="if the change is intended, run `cvmlab baseline update`"
        )


def _result(path: Path) -> "Result":
    from cvmlab.base.documents import text_of
    from cvmlab.results.result import from_json

    try:
        return from_json(text_of(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a result of cvmlab: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
