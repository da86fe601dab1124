# SPDX-License-Identifier: GPL-2.0-or-later
"""How the help of a command looks: options in groups, known metavars, no names of Python types."""

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typing_extensions import override

from cvmlab.machine.option_rows import BY_NAME


_WIDEST_NAME = 30
_GAP = "  "
MAX_WIDTH = 120

Section = list[tuple[str, str]]


class Command(TyperCommand):
    """A command whose ``--help`` has a section for each ``rich_help_panel``."""

    @override
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [item for item in self.get_params(ctx) if isinstance(item, TyperArgument)]
        return ["[OPTIONS]", *map(_in_usage, arguments)]

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        write(formatter, sections(self, ctx))


class CommandGroup(TyperGroup):
    """A group of commands, whose own options look like theirs."""

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        write(formatter, sections(self, ctx))
        self.format_commands(ctx, formatter)


def register(app: typer.Typer, function: Callable[..., None], name: str | None = None) -> None:
    """Make *function* a command of *app*."""
    app.command(name, cls=Command)(function)


def sections(command: Any, ctx: Any) -> Mapping[str, Section]:
    """Return what there is to say of each parameter, by section."""
    found: dict[str, Section] = {}
    for parameter in command.get_params(ctx):
        if parameter.hidden:
            continue
        if isinstance(parameter, TyperArgument):
            title, name = "Arguments", _name(parameter)
        else:
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            name = ", ".join(sorted(parameter.opts, key=len))
            if not parameter.is_flag:
                name += f" {parameter.metavar or parameter.name.upper()}"
        found.setdefault(title, []).append((name, _told(parameter)))
    return found


def write(formatter: Any, found: Mapping[str, Section]) -> None:
    """Write sections one below the other, their columns aligned."""
    names = [len(name) for rows in found.values() for name, _ in rows]
    width = max((length for length in names if length <= _WIDEST_NAME), default=0)
    for title, rows in found.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(width), told) for name, told in rows])


def _told(parameter: Any) -> str:
    """Fill in the words and the default of a boot option: they are known only now."""
    told = (parameter.help or "").removesuffix(".")
    if "{" in told:
        from cvmlab.machine.options import sentence

        told = sentence(BY_NAME[parameter.name])
    return f"{told} (required)" if parameter.required and not _is_argument(parameter) else told


def _is_argument(parameter: Any) -> bool:
    return isinstance(parameter, TyperArgument)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _in_usage(argument: Any) -> str:
    return _name(argument) if argument.required else f"[{_name(argument)}]"
