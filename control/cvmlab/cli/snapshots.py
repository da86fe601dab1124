# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that save VMs, let saved ones go on, and replay recorded ones."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cvmlab.base.errors import CvmError, InvariantError
from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import Command, CommandGroup, register
from cvmlab.cli.running import AsJson, VmName, chosen_run
from cvmlab.cli.session import run, style_of
from cvmlab.machine.option import GDB_SERVER


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cvmlab.boot.judge import Finished
    from cvmlab.boot.plan import Plan
    from cvmlab.replays.recorder import Comparison
    from cvmlab.replays.replay_folder import ReplayFolder
    from cvmlab.vm.saving import Saved

_MIB = 1 << 20
_TIMEOUT_S = 60.0

snapshot = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    epilog="A snapshot holds the guest's private memory in the clear: keep it as you keep the guest.",
)
Place = Annotated[
    str, Argument(metavar="NAME|DIR", help="Name of the snapshot, or a folder (with a / in it)")
]
NewName = Annotated[str, Option(metavar="NAME", help="Name of the new VM (default: vm)")]
RunFolder = Annotated[
    Path | None, Option(metavar="DIR", help="Keep console, logs and events in DIR")
]
Keep = Annotated[bool, Option("--keep", help="Keep the run folder even if it passes")]
Timeout = Annotated[
    float, Option(metavar="SECONDS", min=0.1, help="Give up after this time (default: 60)")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(snapshot, name="snapshot", help="Save VMs whole, list and remove what was saved.")
    register(app, restore)
    register(app, fork)
    register(app, replay)


@snapshot.command(cls=Command)
def save(
    vm: Annotated[str, Argument(metavar="VM", help="Name or run folder of the VM")],
    place: Place,
    *,
    compress: Annotated[bool, Option("--compress", help="Make it smaller (zstd)")] = False,
    timeout: Timeout = _TIMEOUT_S,
    json_: AsJson = False,
) -> None:
    """Save a running VM; its guest stands still for a moment and runs on."""
    done = run(_save(vm, place, compress=compress, timeout_s=timeout))
    if json_:
        import msgspec

        typer.echo(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    typer.echo(
        f"saved in {safe(done.path)}: {done.bytes / _MIB:.0f} MiB, "
        f"the guest stood still for {done.standstill_s * 1000:.0f} ms"
    )
    typer.echo("cvmlab: it holds the guest's private memory in the clear", err=True)


async def _save(vm: str | None, place: str, *, compress: bool, timeout_s: float) -> "Saved":
    from cvmlab.snapshots.store import place_of
    from cvmlab.vm.owner_socket import ask_to_save

    return await ask_to_save(
        chosen_run(vm).path, place_of(place), compress=compress, timeout_s=timeout_s
    )


@snapshot.command("list", cls=Command)
def list_snapshots(*, json_: AsJson = False) -> None:
    """List the snapshots that have names."""
    from cvmlab.snapshots.store import listed

    rows = [_row(path) for path in listed()]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    line = "{:<24}{:<14}{:>8}{:>10}  {:<27}{}"
    typer.echo(line.format("NAME", "PROFILE", "MEMORY", "SIZE", "SAVED", "KERNEL"))
    columns = ("name", "coco", "memory", "size", "saved", "kernel")
    for row in rows:
        typer.echo(safe(line.format(*(row[name] for name in columns))))


def _row(path: Path) -> dict[str, Any]:
    from cvmlab.memory.ranges import format_size
    from cvmlab.snapshots.snapshot_folder import SnapshotFolder

    size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
    row = {
        "name": path.name, "path": str(path), "size": f"{size / _MIB:.0f} MiB", "size_bytes": size,
        "coco": "", "memory": "", "saved": "", "kernel": "", "problem": None,
    }  # fmt: skip
    try:
        told = SnapshotFolder.open(path).manifest
    except CvmError as error:
        return row | {"kernel": f"cannot be used: {error.message}", "problem": error.message}
    return row | {
        "coco": told.coco, "memory": format_size(told.memory_bytes), "saved": told.saved,
        "kernel": told.release or "",
    }  # fmt: skip


@snapshot.command(cls=Command)
def rm(
    names: Annotated[list[str], Argument(metavar="NAME|DIR...", help="Snapshots to remove")],
) -> None:
    """Remove snapshots."""
    from cvmlab.snapshots.store import remove

    for name in names:
        typer.echo(f"removed {safe(str(remove(name)))}")


def restore(
    context: typer.Context,
    place: Place,
    *,
    name: NewName = "vm",
    expect: Annotated[
        str | None,
        Option(metavar="REGEX", help="Pass when REGEX appears on the console, and stop there"),
    ] = None,
    console: Annotated[
        bool, Option("--console", help="Connect this terminal to the guest console")
    ] = False,
    gdb: Annotated[
        bool, Option("--gdb", help="Wait for gdb on port 1234, and let it see private memory")
    ] = False,
    timeout: Annotated[
        float | None, Option(metavar="SECONDS", min=0.1, help="Fail after this time (default: 120)")
    ] = None,
    run_dir: RunFolder = None,
    keep: Keep = False,
    qemu_version: Annotated[
        str | None, Option(metavar="VERSION", help="QEMU that saved it: 10.0 or 11.1")
    ] = None,
) -> None:
    """Let a saved VM go on, in files of its own, and report how it ends.

    A VM that was paused when it was saved, or has failed, stays paused: `cvmlab qmp VM cont`.
    """
    from cvmlab.boot.restored import plan_of
    from cvmlab.snapshots.snapshot_folder import SnapshotFolder
    from cvmlab.snapshots.store import place_of
    from cvmlab.vm.launch import Setting

    plan = plan_of(
        SnapshotFolder.open(place_of(place)),
        Setting(name=name, run_dir=run_dir, keep=keep, qemu_version=qemu_version),
        expect=expect,
        timeout_s=timeout or (_ATTENDED_S if console or gdb else _RUN_S),
        gdb=GDB_SERVER if gdb else None,
        attended=console,
    )
    (finished,) = run(run_all([plan]))
    report_on([finished])
    context.obj.reported = True
    raise typer.Exit(finished.result.exit_code)


_RUN_S = 120.0
_CUT_SHORT = (124, 130)  # a deadline, and Ctrl-C
_ATTENDED_S = 24 * 3600.0


def fork(
    context: typer.Context,
    vm: VmName = None,
    *,
    number: Annotated[
        int, Option("--number", "-n", metavar="N", min=1, max=100, help="Copies (default: 1)")
    ] = 1,
    name: Annotated[
        str | None, Option(metavar="NAME", help="Names are NAME-1, NAME-2, ... (default: VM)")
    ] = None,
    timeout: Annotated[
        float, Option(metavar="SECONDS", min=0.1, help="Fail after this time (default: 120)")
    ] = _RUN_S,
) -> None:
    """Let copies of a running VM go on from where it is, and report how each ends.

    They have files of their own, and the same secrets, addresses and network cards as the guest.
    """
    found = chosen_run(vm)
    title = name or found.info.name
    finished = run(_fork(str(found.path), title, number, timeout))
    report_on(finished)
    context.obj.reported = True
    raise typer.Exit(max(one.result.exit_code for one in finished))


async def _fork(vm: str, title: str, number: int, timeout_s: float) -> "Sequence[Finished]":
    from cvmlab.boot.restored import plan_of
    from cvmlab.snapshots.snapshot_folder import SnapshotFolder
    from cvmlab.vm.launch import Setting

    settings = [Setting(name=f"{title}-{index}") for index in range(1, number + 1)]
    folder = Path(tempfile.mkdtemp(prefix="cvmlab-fork-"))
    try:
        place = folder / title
        await _save(vm, str(place), compress=False, timeout_s=_TIMEOUT_S)
        plans = [plan_of(SnapshotFolder.open(place), one, timeout_s=timeout_s) for one in settings]
        return await run_all(plans)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run_all(
    plans: "Sequence[Plan]", *, at_end: "Callable[[Path], None] | None" = None
) -> "Sequence[Finished]":
    """Run all *plans* at once; *at_end* is given the run folder of a plan that is alone."""
    import asyncio
    import sys

    from cvmlab.boot import watch as bootwatch
    from cvmlab.boot.run import run_plan

    if len(plans) == 1:
        style = style_of(None)
        watch = bootwatch.watcher(plans[0], style, verbose=False, stream=sys.stderr)
        return [await run_plan(plans[0], watch=watch, report_on=at_end)]
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(run_plan(plan)) for plan in plans]
    return [run.result() for run in runs]


def report_on(finished: "Sequence[Finished]") -> None:
    """Print how each has ended."""
    from cvmlab.report.text import render

    for one in finished:
        typer.echo(render(one.result, console=one.console, verbose=False), nl=False)
        for problem in one.problems:
            typer.echo(f"cvmlab: {safe(problem)}", err=True)


def replay(
    context: typer.Context,
    folder: Annotated[
        Path, Argument(metavar="DIR", help="Folder of the recording (`cvmlab boot --record DIR`)")
    ],
    *,
    until: Annotated[
        str | None,
        Option(
            metavar="MOMENT",
            help="Stop there: `convert 0x1234000`, `accept`, `fault`, `record 812`, a function or its address",
        ),
    ] = None,
    gdb: Annotated[
        bool,
        Option("--gdb", help="Wait for gdb on port 1234, which can go back; needs --debuggable"),
    ] = False,
    name: NewName = "vm",
    timeout: Annotated[
        float | None, Option(metavar="SECONDS", min=0.1, help="Fail after this time (default: 600)")
    ] = None,
    run_dir: RunFolder = None,
    keep: Keep = False,
    qemu_version: Annotated[
        str | None, Option(metavar="VERSION", help="QEMU that recorded it: 10.0 or 11.1")
    ] = None,
) -> None:
    """Execute a recorded boot again, instruction by instruction, and compare the journals."""
    from cvmlab.boot.replayed import REPLAY_TIMEOUT_S, plan_of
    from cvmlab.replays.recorder import Comparison
    from cvmlab.replays.replay_folder import ReplayFolder
    from cvmlab.vm.launch import Setting

    recording = ReplayFolder.open(folder)
    plan = plan_of(
        recording,
        Setting(name=name, run_dir=run_dir, keep=keep, qemu_version=qemu_version),
        until=until,
        gdb=GDB_SERVER if gdb else None,
        timeout_s=timeout or (_ATTENDED_S if gdb else REPLAY_TIMEOUT_S),
    )
    compared: list[Comparison] = []

    def compare(run_folder: Path) -> None:
        compared.append(Comparison.of(recording.events, run_folder / recording.events.name))

    (finished,) = run(run_all([plan], at_end=compare))
    report_on([finished])
    context.obj.reported = True
    if not gdb:
        whole = until is None and finished.result.exit_code not in _CUT_SHORT
        _tell(recording, compared[0], whole=whole)
    raise typer.Exit(finished.result.exit_code)


def _tell(recording: "ReplayFolder", found: "Comparison", *, whole: bool) -> None:
    """Say how the journals compare; raise InvariantError if they differ."""
    if found.is_identical:
        typer.echo(f"replayed: the journals are identical, {found.recorded} records")
    elif not whole and found.same == found.replayed:
        typer.echo(f"replayed: {found.replayed} of {found.recorded} records, identical so far")
    else:
        raise InvariantError(
            f"the replay of {recording.path} differs from record {found.same + 1} on "
            f"({found.recorded} were recorded, {found.replayed} replayed)"
        )
