# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab boot``."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cvmlab.cli import boot_options as options
from cvmlab.cli import publish
from cvmlab.cli.session import run, style_of
from cvmlab.errors import ConfigError, CvmError


if TYPE_CHECKING:
    from cvmlab.bootjudge import Finished
    from cvmlab.bootplan import Plan
    from cvmlab.bootrequest import Request
    from cvmlab.bootrun import LookAt, Watch
    from cvmlab.mqtt import Broker
    from cvmlab.progress import Style


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(boot)


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


def boot(
    context: typer.Context,
    image: options.Image = None,
    *,
    kernel: options.Kernel = None,
    initrd: options.Initrd = None,
    append: options.Append = None,
    disk: options.Disks = None,
    disk_interface: options.DiskInterface = None,
    exec_: options.Exec = None,
    share: options.Share = None,
    user_data: options.UserData = None,
    console: options.OnConsole = False,
    coco: options.Coco = None,
    coco_option: options.CocoOptions = None,
    mapgpa: options.MapGpa = None,
    quotes: options.Quotes = False,
    firmware: options.FirmwareName = None,
    memory: options.Memory = None,
    cpus: options.Cpus = None,
    tb_cache: options.TbCache = None,
    net: options.NetName = None,
    on_host_access: options.OnHostAccess = None,
    on_pending: options.OnPending = None,
    expect: options.Expect = None,
    timeout: options.Timeout = None,
    max_faults: options.MaxFaults = None,
    max_conversions: options.MaxConversions = None,
    max_accepts: options.MaxAccepts = None,
    baseline: options.Baseline = None,
    json: options.Json = None,
    junit: options.Junit = None,
    trace: options.Trace = None,
    html: options.Html = None,
    mqtt: publish.Mqtt = None,
    mqtt_user: publish.MqttUser = None,
    mqtt_password_file: publish.MqttPasswordFile = None,
    mqtt_tls: publish.MqttTls = False,
    mqtt_ca: publish.MqttCa = None,
    mqtt_commands: publish.MqttCommands = False,
    run_dir: options.RunDir = None,
    name: options.Name = None,
    keep: options.Keep = False,
    gdb: options.Gdb = False,
    qemu: options.Qemu = None,
    symbols: options.SymbolsFile = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    progress: options.Progress = None,
    debug: options.Debug = False,
) -> None:
    """Boot a guest as a confidential VM, and report what became of its memory."""
    from cvmlab.bootrequest import Request

    context.obj.debug |= debug
    request = Request(
        image=image, kernel=kernel, initrd=initrd, append=append, exec=exec_,
        disks=tuple(disk or ()), disk_interface=disk_interface, net=net,
        share=share, user_data=user_data, console=console,
        coco=coco, coco_options=tuple(coco_option or ()), mapgpa=mapgpa, quotes=quotes,
        firmware=firmware, memory=memory, cpus=cpus, tb_cache=tb_cache,
        on_host_access=on_host_access, on_pending=on_pending,
        expect=expect, timeout_s=timeout,
        max_faults=tuple(max_faults or ()),
        max_conversions=tuple(max_conversions or ()),
        max_accepts=tuple(max_accepts or ()), baseline=baseline,
        name=name, run_dir=run_dir, keep=keep, gdb=gdb, qemu=qemu, symbols=symbols,
    )  # fmt: skip
    broker = publish.broker_of(
        mqtt, mqtt_user, mqtt_password_file, tls=mqtt_tls, ca=mqtt_ca, commands=mqtt_commands
    )
    if console and json == "-":
        raise ConfigError("--console and --json - both want standard output", hint="--json FILE")
    output = Output(json=json, junit=junit, trace=trace, html=html, broker=broker, verbose=verbose)
    if dry_run:
        _show_command(request, output)
        return
    status = _boot(request, output, style_of(progress))
    context.obj.reported = True
    raise typer.Exit(status)


def _show_command(request: "Request", output: Output) -> None:
    from cvmlab.bootplan import plan
    from cvmlab.machine import printable

    output.require()
    typer.echo(printable(plan(request, build=False).argv))


def _boot(request: "Request", output: Output, style: "Style") -> int:
    from cvmlab import bootwatch
    from cvmlab.bootjudge import never_booted
    from cvmlab.bootplan import plan

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
    return finished.result.exit_code


async def _published(
    wanted: "Plan", watch: "Watch", output: Output, request: "Request"
) -> "Finished":
    """Run the plan, published to the broker if there is one: that is tried before the boot."""
    from cvmlab.bootrun import run_plan

    look_at, broker = _looker(output, request), output.broker
    if broker is None:
        return await run_plan(wanted, watch=watch, look_at=look_at)
    if not wanted.spec.restricted:
        raise ConfigError("--mqtt: without restricted memory there is nothing to publish")
    from cvmlab.mqtt import publishing, require_reachable

    await require_reachable(broker)
    return await run_plan(
        wanted, watch=watch, look_at=look_at, companion=lambda vm: publishing(vm, broker)
    )


def _looker(output: Output, request: "Request") -> "LookAt | None":
    """Return what makes trace and HTML report of a run folder; None if neither is wanted."""
    if output.trace is None and output.html is None:
        return None

    def look_at(folder: Path) -> None:
        from cvmlab.cli import recorded

        recording = recorded.read(folder, title=request.title)
        if output.trace is not None:
            recorded.write_trace(recording, output.trace)
        if output.html is not None:
            recorded.write_html(recording, None, output.html)

    return look_at


def _teller(style: "Style") -> Callable[[str], None]:
    from cvmlab.progress import Style

    def tell(step: str) -> None:
        if style is not Style.NONE:
            typer.echo(f"cvmlab: {step}", err=True)

    return tell


def _deliver(finished: "Finished", output: Output, request: "Request", *, report: bool) -> None:
    from cvmlab.junit import Case, document
    from cvmlab.report import render
    from cvmlab.result import to_json

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
