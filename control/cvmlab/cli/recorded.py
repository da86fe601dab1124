# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at a run: that was recorded, as a trace or an HTML report; that goes on, in a terminal."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.cli.running import VmName, attached
from cvmlab.cli.session import require_terminal, run
from cvmlab.errors import ConfigError


if TYPE_CHECKING:
    from cvmlab.recording import Recording


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(report)
    app.command()(top)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="What a run left.")],
    *,
    compare: Annotated[
        Path | None, typer.Option(metavar="RUN_FOLDER", help="Show another run beside it.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the HTML.")
    ] = Path("report.html"),
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a Perfetto trace.")
    ] = None,
) -> None:
    """Make one HTML file of a run: timeline, page map, faults, functions."""
    recording = read(folder)
    other = None if compare is None else read(compare)
    write_html(recording, other, output)
    typer.echo(f"wrote {output}")
    if trace is not None:
        write_trace(recording, trace)
        typer.echo(f"wrote {trace}")


def top(
    name: VmName = None,
    *,
    snapshots: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the key w writes the map.")
    ] = Path(),
) -> None:
    """Watch a VM's memory live; keys convert, pause, and write the map."""

    async def work() -> None:
        from cvmlab.top.app import Top
        from cvmlab.top.source import LiveSource

        async with attached(name) as vm:
            vm.pages.counts()  # says so, if it has no restricted memory
            await Top(LiveSource(vm), folder=snapshots).run_async()

    require_terminal("cvmlab top")
    run(work())


def read(folder: Path, *, title: str | None = None) -> "Recording":
    """Read a run folder; raise ConfigError if it is none."""
    from cvmlab.recording import load

    recording = load(folder)
    return recording if title is None else replace(recording, title=title)


def write_trace(recording: "Recording", path: Path) -> None:
    """Write the trace; raise ConfigError if it cannot be written."""
    from cvmlab import perfetto

    try:
        with path.open("w", encoding="utf-8") as stream:
            perfetto.write_trace(stream, recording.records, recording.names, title=recording.title)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_html(recording: "Recording", other: "Recording | None", path: Path) -> None:
    """Write the HTML report; raise ConfigError if it cannot be written."""
    from cvmlab.html import render

    text = render(recording, other)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror}")
