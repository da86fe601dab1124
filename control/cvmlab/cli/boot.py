# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab boot``."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.base.safe_text import safe
from cvmlab.cli import publish
from cvmlab.cli.help_text import register
from cvmlab.cli.row_parameters import with_options
from cvmlab.cli.session import run, style_of
from cvmlab.machine.option import Form
from cvmlab.machine.option_rows import BY_NAME, having


if TYPE_CHECKING:
    from cvmlab.base.progress import Style
    from cvmlab.boot.judge import Finished
    from cvmlab.boot.plan import Plan
    from cvmlab.boot.request import Request
    from cvmlab.boot.run import ReportOn, Watch
    from cvmlab.publish.mqtt import Broker


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    register(app, boot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where results go."""

    json: str | None
    junit: Path | None
    trace: Path | None = None
    html: Path | None = None
    broker: "Broker | None" = None
    verbose: bool = False

    def require(self) -> None:
        """Raise ConfigError now rather than after the boot, if something cannot be written."""
        files = [Path(self.json)] if self.json not in (None, "-") else []
        files += [path for path in (self.junit, self.trace, self.html) if path is not None]
        for path in files:
            if not path.absolute().parent.is_dir():
                raise ConfigError(
                    f"{path} cannot be written: there is no folder {path.parent}",
                    hint="make the folder first",
                )
            if path.is_dir():
                raise ConfigError(
                    f"{path} cannot be written: it is a folder", hint="give the path of a file"
                )


@with_options(having(Form.COMMAND))
def boot(context: typer.Context, **given: Any) -> None:
    """Boot a guest as a confidential VM and report on its memory."""
    context.obj.debug |= given["debug"]
    request = request_of(given)
    output = _output(given)
    if given["console"] and output.json == "-":
        raise ConfigError("--console and --json - both use standard output", hint="--json FILE")
    if given["dry_run"]:
        _show_command(request, output)
        return
    status = _boot(request, output, style_of(given["progress"]))
    context.obj.reported = True
    raise typer.Exit(status)


def request_of(given: Mapping[str, Any]) -> "Request":
    """Return what the parsed command line asks for."""
    from cvmlab.boot.request import Request

    return Request.of(**{BY_NAME[name].keyword: value for name, value in given.items()})


def _output(given: Mapping[str, Any]) -> Output:
    def path(name: str) -> Path | None:
        return None if given[name] is None else Path(given[name])

    return Output(
        json=given["json"],
        junit=path("junit"),
        trace=path("trace"),
        html=path("html"),
        broker=publish.broker_of(given),
        verbose=given["verbose"],
    )


def _show_command(request: "Request", output: Output) -> None:
    from cvmlab.boot.plan import plan
    from cvmlab.machine.command_line import printable, why_not_to_paste

    output.require()
    argv = plan(request, build=False).argv
    typer.echo(printable(argv))
    typer.echo(f"cvmlab: {why_not_to_paste(argv)}", err=True)


def _boot(request: "Request", output: Output, style: "Style") -> int:
    from cvmlab.boot import watch as bootwatch
    from cvmlab.boot.judge import never_booted
    from cvmlab.boot.plan import plan

    output.require()
    try:
        wanted = plan(request, style=style, on_step=_teller(style))
        watch = bootwatch.watcher(wanted, style, verbose=output.verbose, stream=sys.stderr)
        finished = run(_published(wanted, watch, output, request))
    except CvmError as error:
        # Where results were asked for, a boot that could not start leaves one, too.
        _deliver(never_booted(request, error), output, request, report=False)
        raise
    _deliver(finished, output, request, report=True)
    for problem in finished.problems:
        typer.echo(f"cvmlab: {safe(problem)}", err=True)
    return finished.result.exit_code


async def _published(
    wanted: "Plan", watch: "Watch", output: Output, request: "Request"
) -> "Finished":
    """Run the plan, published to the broker if there is one: that is tried before the boot."""
    from cvmlab.boot.run import run_plan

    report_on, broker = _reporter(output, request), output.broker
    if broker is None:
        return await run_plan(wanted, watch=watch, report_on=report_on)
    if not wanted.spec.restricted:
        raise ConfigError(
            "--mqtt has nothing to publish with --coco off",
            hint="leave --mqtt out, or choose a profile",
        )
    from cvmlab.publish.mqtt import publishing, require_reachable

    await require_reachable(broker)
    return await run_plan(
        wanted, watch=watch, report_on=report_on, companion=lambda vm: publishing(vm, broker)
    )


def _reporter(output: Output, request: "Request") -> "ReportOn | None":
    """Return what makes trace and HTML report of a run folder; None if neither is wanted."""
    if output.trace is None and output.html is None:
        return None

    def report_on(folder: Path) -> None:
        from cvmlab.cli import recorded

        recording = recorded.read(folder, title=request.title)
        if output.trace is not None:
            recorded.write_trace(recording, output.trace)
        if output.html is not None:
            recorded.write_html(recording, None, output.html)

    return report_on


def _teller(style: "Style") -> Callable[[str], None]:
    from cvmlab.base.progress import Style

    def tell(step: str) -> None:
        if style is not Style.NONE:
            typer.echo(f"cvmlab: {step}", err=True)

    return tell


def _deliver(finished: "Finished", output: Output, request: "Request", *, report: bool) -> None:
    from cvmlab.report.junit import Case, document
    from cvmlab.report.text import render
    from cvmlab.results.result import to_json

    text = render(finished.result, console=finished.console, verbose=output.verbose)
    if report:
        typer.echo(text, nl=False, err=output.json == "-")
    if output.json == "-":
        typer.echo(to_json(finished.result), nl=False)
    elif output.json is not None:
        _write(Path(output.json), to_json(finished.result))
    if output.junit is not None:
        _write(output.junit, document([Case.of(request.title, finished.result, text)]))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
