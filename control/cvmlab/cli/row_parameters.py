# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of a command, made from the rows of boot options.

Values stay text until boot/read_request.py reads them, so that a mistake is told in the same words
wherever it is made.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import typer

from cvmlab.machine.option import Option
from cvmlab.machine.option_rows import BY_NAME


F = TypeVar("F", bound=Callable[..., Any])


def with_options(rows: Iterable[Option]) -> Callable[[F], F]:
    """Give the function a parameter for each row, in place of its ``**given``."""

    def decorate(function: F) -> F:
        own = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        made = [_parameter(row) for row in rows]
        vars(function)["__signature__"] = inspect.Signature([*own, *made])
        return function

    return decorate


def option(name: str) -> Any:
    """Return what ``Annotated`` needs to give a command the boot option *name*."""
    return _option(BY_NAME[name], None)


def _option(row: Option, group: str | None) -> Any:
    words = [word for word in (row.label, row.short) if word]
    return typer.Option(*words, metavar=row.metavar or None, help=row.help, rich_help_panel=group)


def _parameter(row: Option) -> inspect.Parameter:
    if row.is_argument:
        info = typer.Argument(metavar=row.metavar, help=row.help)
    else:
        info = _option(row, row.group)
    kind: Any = bool if row.is_switch else list[str] | None if row.repeatable else str | None
    return inspect.Parameter(
        row.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if row.is_switch else None,
        annotation=Annotated[kind, info],
    )
