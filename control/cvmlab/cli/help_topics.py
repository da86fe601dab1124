# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab help``: the help of a command, or a topic that belongs to none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.cli.help_text import MAX_WIDTH, register


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    register(app, help_, "help")


def help_(
    context: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC|COMMAND", help="exit-codes, environment, or a command such as `boot`"
        ),
    ] = None,
) -> None:
    """Explain a command, the exit codes, or the environment variables."""
    words = topic or []
    if len(words) == 1 and words[0] in _TOPICS:
        typer.echo("\n".join(_TOPICS[words[0]]()))
        return
    typer.echo(_of_command(context.find_root(), words))


def _of_command(root: Any, words: Sequence[str]) -> str:
    context = root
    for word in words:
        known = getattr(context.command, "commands", {})
        if not known:
            raise ConfigError(
                f"{context.command_path} has no command {word!r}",
                hint=f"see `{context.command_path} --help`",
            )
        names = [name for name in known if not name.startswith("_")]
        topics = [] if context is not root else list(_TOPICS)
        command = known[choose("help", word, [*topics, *names])]
        context = type(context)(command, info_name=word, parent=context)
    return str(context.get_help())


def _exit_codes() -> Iterator[str]:
    from cvmlab.results.exit_codes import table

    yield "Exit codes of cvmlab boot. Other commands use 0, 85 and 86 in the same way."
    yield ""
    yield from (f"  {code:>5}  {meaning}" for code, meaning in table())


def _environment() -> Iterator[str]:
    from shutil import get_terminal_size
    from textwrap import wrap

    from cvmlab.base.environment import VARIABLES

    yield "Environment variables"
    yield ""
    names = [", ".join(variable.shown) for variable in VARIABLES]
    width = max(len(name) for name in names if len(name) < _WIDE)
    room = min(get_terminal_size().columns, MAX_WIDTH) - width - 4
    for name, variable in zip(names, VARIABLES, strict=True):
        first, *rest = wrap(variable.meaning, max(room, _NARROW))
        if len(name) > width:
            yield f"  {name}"
            name = ""
        yield f"  {name:<{width}}  {first}"
        yield from (f"  {'':<{width}}  {line}" for line in rest)


_WIDE, _NARROW = 30, 24
_TOPICS: Mapping[str, Callable[[], Iterator[str]]] = {
    "exit-codes": _exit_codes,
    "environment": _environment,
}
