# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab baseline update`` and ``cvmlab baseline check``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cvmlab.errors import BudgetExceeded, ConfigError


if TYPE_CHECKING:
    from cvmlab.result import Result


baseline = typer.Typer(
    rich_markup_mode=None,
    epilog="Exit codes: 0 no more than before, 80 more than before, 85 bad usage or input.",
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(baseline, name="baseline", help="Hold counts against those of earlier boots.")


File = Annotated[Path, Argument(metavar="FILE", help="The baselines.")]
Results = Annotated[
    list[Path], Argument(metavar="RESULT.json...", help="What `cvmlab boot --json` wrote.")
]


@baseline.command()
def update(
    file: File,
    results: Results,
    *,
    percent: Annotated[
        int | None, Option(min=0, help="More than this is a regression. Default: 10.")
    ] = None,
    pages: Annotated[
        int | None, Option(min=0, help="... and more than so many pages. Default: 64.")
    ] = None,
) -> None:
    """Take over what these boots took; of several boots alike, the most."""
    import msgspec

    from cvmlab import baselines
    from cvmlab.baselinefile import load, save

    known = load(file) if file.exists() else baselines.Baselines()
    given = {"percent": percent, "pages": pages}
    changed = {name: value for name, value in given.items() if value is not None}
    tolerance = msgspec.structs.replace(known.tolerance, **changed)
    known = msgspec.structs.replace(known, tolerance=tolerance)
    read = [_result(path) for path in results]
    save(file, baselines.updated(known, read))
    for name in dict.fromkeys(map(baselines.key_of, read)):
        typer.echo(f"{file}: {name} is as measured")


@baseline.command()
def check(file: File, results: Results) -> None:
    """Fail with exit code 80 if any of these boots took more than its baseline."""
    from cvmlab import baselines
    from cvmlab.baselinefile import load

    known = load(file)
    found: list[str] = []
    for path in results:
        result = _result(path)
        name = baselines.key_of(result)
        more = list(baselines.regressions(known.entry(name, str(file)), known.tolerance, result))
        found += [f"{name}: {sentence}" for sentence in more]
        typer.echo(f"{name}: {'more than before' if more else 'no more than before'}")
    if found:
        raise BudgetExceeded("\n".join(found), hint="`cvmlab baseline update` if that is meant so")


def _result(path: Path) -> "Result":
    from cvmlab.result import from_json

    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
