# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: one module for each group of commands."""

# A module that is slow to import is imported by the command that needs it.
#
# Whatever goes wrong ends as ``cvmlab: <what>`` and ``hint: <what to do>`` on standard error and a
# documented exit code; a traceback only with ``--debug``.

import errno
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typing_extensions import override

from cvmlab import __version__
from cvmlab.base.errors import ConfigError, CvmError, InvariantError
from cvmlab.base.safe_text import safe
from cvmlab.base.stop_signals import INTERRUPTED
from cvmlab.cli import (
    attest,
    baseline,
    boot,
    debugging,
    help_topics,
    matrix,
    publish,
    recorded,
    running,
    runs,
    setup,
    snapshots,
    upgrading,
)
from cvmlab.cli.help_text import MAX_WIDTH, CommandGroup
from cvmlab.cli.session import Session


class _Root(CommandGroup):
    """The command itself.  Exit codes are explained when help is asked for: their table is slow."""

    @override
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from cvmlab.results.exit_codes import sentence

        formatter.write_paragraph()
        formatter.write_text(sentence())


app = typer.Typer(
    cls=_Root,
    name="cvmlab",
    help="Boot confidential-VM guests on QEMU's TCG and watch their memory, page by page.\n\n"
    "Emulates visibility and page states; nothing is encrypted and nothing is secured.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)
boot.add_to(app)
baseline.add_to(app)
matrix.add_to(app)
running.add_to(app)
runs.add_to(app)
upgrading.add_to(app)
snapshots.add_to(app)
debugging.add_to(app)
recorded.add_to(app)
attest.add_to(app)
publish.add_to(app)
setup.add_to(app)
help_topics.add_to(app)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"cvmlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks")] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version",
            is_eager=True,
            callback=lambda value: _show_version(wanted=value),
        ),
    ] = False,
) -> None:
    context.obj.debug |= debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    session = Session()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words, session)
    except CvmError as error:
        return _fail(error, session)
    except typer.TyperException as error:
        return _fail(_usage_error(error), session)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the last resort, and it is said to be a defect
        return _fail(_defect(error), session)


def _run(words: list[str], session: Session) -> int:
    try:
        status = app(
            args=words or ["--help"], prog_name="cvmlab", standalone_mode=False, obj=session
        )
    except BrokenPipeError:
        # The reader of our output has seen enough; Python must not complain at exit.
        sys.stdout = None
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        sys.stdout = None
        raise ConfigError(
            f"the output cannot be written: {error.strerror}",
            hint="free some space, or send it elsewhere",
        ) from error
    if status == INTERRUPTED and not session.reported:
        return _interrupted()
    return status if isinstance(status, int) else 0


def _fail(error: CvmError, session: Session) -> int:
    if session.debug:
        traceback.print_exception(error)
    typer.echo(f"cvmlab: {safe(error.message)}", err=True)
    if error.hint:
        typer.echo(f"hint: {safe(error.hint)}", err=True)
    return error.exit_code


def _interrupted() -> int:
    typer.echo("cvmlab: interrupted", err=True)
    return INTERRUPTED


def _defect(error: Exception) -> InvariantError:
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = f"{type(error).__name__}: {error}"
    defect = InvariantError(
        f"a defect of cvmlab: {text}", hint="run it again with --debug and report what it prints"
    )
    defect.__cause__ = error
    return defect


def _usage_error(error: typer.TyperException) -> ConfigError:
    """Say a mistake on the command line as we say all mistakes."""
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "cvmlab"
    near = list(getattr(error, "possibilities", None) or ())
    if near:
        message = f"no such option: {getattr(error, 'option_name', '')}"
    if message.startswith("no such command ") and context is not None:
        names = [name for name in context.command.commands if not name.startswith("_")]
        near = get_close_matches(message.split("'")[1], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"see `{path} --help`"
    return ConfigError(message, hint=hint)
