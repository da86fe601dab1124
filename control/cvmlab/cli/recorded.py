# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at a run: a recorded one as a trace or an HTML report, a running one in the terminal."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.base.errors import ConfigError
from cvmlab.cli.help_text import register
from cvmlab.cli.running import VmName, attached
from cvmlab.cli.session import require_terminal, run


if TYPE_CHECKING:
    from cvmlab.report.recording import Recording


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    register(app, report)
    register(app, top)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Run folder of a boot")],
    *,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_FOLDER",
            help="Run folder of an earlier boot to compare with: the report shows what grew since",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="HTML file to write (default: report.html)"
        ),
    ] = Path("report.html"),
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a trace for ui.perfetto.dev")
    ] = None,
) -> None:
    """Write an HTML report of a run. It has a timeline, a page map, faults and functions."""
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
        Path, typer.Option(metavar="DIR", help="Where the key w writes the map (default: here)")
    ] = Path(),
) -> None:
    """Watch the memory of a VM live. Keys convert pages, pause the VM, and write the map to a file."""

    async def work() -> None:
        from cvmlab.report.top.app import Top
        from cvmlab.report.top.view_source import LiveSource

        async with attached(name) as vm:
            vm.pages.counts()  # says so, if it has no restricted memory
            await Top(LiveSource(vm), folder=snapshots).run_async()

    require_terminal("cvmlab top")
    run(work())


def read(folder: Path, *, title: str | None = None) -> "Recording":
    """Read a run folder; raise ConfigError if it is none."""
    from cvmlab.report.recording import load

    recording = load(folder)
    return recording if title is None else replace(recording, title=title)


def write_trace(recording: "Recording", path: Path) -> None:
    """Write the trace; raise ConfigError if it cannot be written."""
    from cvmlab.report import perfetto

    try:
        with path.open("w", encoding="utf-8") as stream:
            perfetto.write_trace(stream, recording.records, recording.names, title=recording.title)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_html(recording: "Recording", other: "Recording | None", path: Path) -> None:
    """Write the HTML report; raise ConfigError if it cannot be written."""
    from cvmlab.report.html import render

    text = render(recording, other)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror}")
