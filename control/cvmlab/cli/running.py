# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that act on VMs running in other terminals."""

import json
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.cli.help_text import register
from cvmlab.cli.session import has_colour, run


if TYPE_CHECKING:
    from cvmlab.runs.run_dir import FoundRun
    from cvmlab.vm.attached import AttachedVm
    from cvmlab.vm.operations import BackendInfo

VmName = Annotated[
    str | None,
    typer.Argument(
        metavar="VM", help="Name or run folder of the VM (default: the only one that is running)"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (ps, stop, query, convert, qmp):
        register(app, command)
    register(app, show_map, "map")
    register(app, events)


@asynccontextmanager
async def attached(name: str | None) -> AsyncIterator["AttachedVm"]:
    """Attach to the VM of that name, or to the only one that runs."""
    from cvmlab.vm.attached import attach

    async with attach(str(_only_running().path) if name is None else name) as vm:
        yield vm


def chosen_run(name: str | None) -> "FoundRun":
    """Find the running VM of that name, or the only one."""
    from cvmlab.runs.run_dir import find_running

    return _only_running() if name is None else find_running(name)


def _only_running() -> "FoundRun":
    from cvmlab.runs.run_dir import find_runs

    running = [found for found in find_runs() if found.running]
    match running:
        case [found]:
            return found
        case []:
            raise ConfigError("no VM is running", hint="`cvmlab boot` starts one")
        case _:
            names = ", ".join(found.path.name for found in running)
            raise ConfigError(f"{len(running)} VMs are running", hint=f"say which: {names}")


def ps(*, json_: AsJson = False) -> None:
    """List the running VMs."""
    from cvmlab.runs.run_dir import find_runs

    running = [found for found in find_runs() if found.running]
    if json_:
        _print_json([_run_row(found) for found in running])
        return
    row = "{:<16}{:<14}{:>8}{:>9}{:>9}  {}"
    typer.echo(row.format("NAME", "PROFILE", "MEMORY", "PID", "AGE", "RUN FOLDER"))
    for found in running:
        one = _run_row(found)
        age = f"{one['age_s']:.0f} s"
        typer.echo(
            row.format(one["name"], one["coco"], one["memory"], one["pid"], age, one["run_dir"])
        )


def _run_row(found: "FoundRun") -> dict[str, Any]:
    from cvmlab.memory.ranges import format_size

    info = found.info
    return {
        "name": info.name,
        "coco": info.coco,
        "memory": format_size(info.memory_bytes),
        "pid": info.qemu.pid,
        "age_s": round(max(time.time() - info.created_s, 0), 1),
        "run_dir": str(found.path),
    }


def stop(name: VmName = None) -> None:
    """Stop a VM. QEMU quits, and the command that booted the VM prints its report."""

    async def work() -> None:
        async with attached(name) as vm:
            await vm.stop()

    run(work())


def query(name: VmName = None, *, json_: AsJson = False) -> None:
    """Show the page states, counters and host accesses of a VM."""

    async def work() -> tuple["BackendInfo", dict[str, int]]:
        from cvmlab.publish.vm_feed import Feed

        async with attached(name) as vm:
            info = await vm.query()
            with Feed(vm) as feed:
                feed.read_on()
                return info, feed.counters()

    info, counters = run(work())
    words = {name.replace("_", "-"): value for name, value in counters.items()}
    if json_:
        import msgspec

        _print_json(msgspec.to_builtins(info) | {"counters": words})
    else:
        typer.echo("\n".join(_info_lines(info, words)))


def _info_lines(info: "BackendInfo", counters: dict[str, int]) -> list[str]:
    import msgspec

    from cvmlab.memory.ranges import format_size

    lines = [
        f"{info.profile}, {info.layout}, {format_size(info.size)}, phase {info.phase}, "
        f"host access: {info.policy}{', debuggable' if info.debuggable else ''}",
        f"storage: private file {info.private_bytes} bytes, shared file {info.shared_bytes} bytes",
        "pages",
    ]
    for heading, values in (("", msgspec.to_builtins(info.pages)), ("counters", counters)):
        lines += [heading] if heading else []
        lines += [f"  {name:<20}{value:>12}" for name, value in values.items()]
    lines += ["slots"]
    lines += [f"  {slot.gpa:#014x} {format_size(slot.size)}" for slot in info.slots]
    active = [actor for actor in info.actors if actor.faults or actor.converted]
    lines += ["host actors"] if active else []
    for actor in active:
        counts = f"{actor.faults} faults, {actor.converted} pages converted"
        lines.append(f"  {actor.actor} {actor.id}: {counts}")
    return lines


def show_map(
    name: VmName = None,
    *,
    width: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Characters in a line (default: fit the terminal)"),
    ] = None,
    height: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of lines, roughly (default: 16)")
    ] = 16,
) -> None:
    """Draw the page states of a VM."""

    async def work() -> str:
        from cvmlab.memory import page_map

        ink = page_map.Ink.COLOUR if has_colour(sys.stdout) else page_map.Ink.ASCII
        room = min(shutil.get_terminal_size().columns - 16, 128)
        canvas = page_map.Canvas(width or max(room, 16), height, ink)
        async with attached(name) as vm:
            return page_map.draw(vm.pages.extents, vm.pages.slots, canvas)

    typer.echo(run(work()), nl=False)


def convert(
    name: Annotated[str, typer.Argument(metavar="VM", help="Name or run folder of the VM")],
    ranges: Annotated[
        list[str],
        typer.Argument(metavar="RANGE...", help="START+SIZE or START-END, such as 512M+2M"),
    ],
    *,
    to: Annotated[str, typer.Option(metavar="STATE", help="New state: shared or private")],
    content: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="What happens to the content: discard, or preserve (default: by the layout; private content of "
            "two files is kept only in a debuggable VM)",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Convert guest memory to shared or private: all ranges, or none."""
    from cvmlab.vm.operations import Content, Target, read_ranges

    target = choose("--to", to, Target)
    keep = None if content is None else choose("--content", content, Content)
    wanted = read_ranges(ranges)

    async def work() -> int:
        async with attached(name) as vm:
            return await vm.convert(wanted, target, content=keep)

    pages = run(work())
    if json_:
        _print_json({"pages": pages})
    else:
        typer.echo(f"{pages} pages are now {target}")


def qmp(
    name: Annotated[str, typer.Argument(metavar="VM", help="Name or run folder of the VM")],
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="QMP command")],
    arguments: Annotated[
        str, typer.Argument(metavar="JSON", help="Arguments of the command, as a JSON object")
    ] = "{}",
) -> None:
    """Send a raw QMP command and print what QEMU returns."""
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the arguments are not JSON: {error}", hint=_ARGUMENTS_HINT) from error
    if not isinstance(values, dict):
        raise ConfigError("the arguments are not a JSON object", hint=_ARGUMENTS_HINT)

    async def work() -> Any:
        async with attached(name) as vm:
            return await vm.command(command, values or None)

    _print_json(run(work()))


_ARGUMENTS_HINT = """write them like '{"id": "ram0"}'"""


def events(
    name: VmName = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new events until the VM ends")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Print only this kind, such as host-fault; repeatable"),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Print the event journal of a VM.

    If the VM has ended, give its run folder.
    """
    from cvmlab.cli import journal_view

    path = None if name is None else Path(name)
    folder = path if path is not None and (path / "events.bin").is_file() else None
    if folder is None:
        from cvmlab.runs.run_dir import find_running

        folder = _only_running().path if name is None else find_running(name).path
    journal_view.show(folder, kinds=kind or [], follow=follow, as_json=json_)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
