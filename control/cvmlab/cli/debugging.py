# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that look into a debuggable VM: dumps, and debuggers."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import Command, register
from cvmlab.cli.running import AsJson, attached
from cvmlab.cli.session import run


if TYPE_CHECKING:
    from cvmlab.dump.take import Taken


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    register(app, dump)
    # What follows the VM is the debugger's.
    words = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command(cls=Command, context_settings=words)(drgn)
    app.command(cls=Command, context_settings=words)(gdb)


def dump(
    name: Annotated[
        str,
        typer.Argument(
            metavar="VM",
            help="Name or run folder of a VM, or the run folder that a debuggable VM has left (boot --keep)",
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write")],
    *,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="elf: an ELF core; kdump: compressed, as makedumpfile writes it (default: elf)",
        ),
    ] = "elf",
    private: Annotated[
        str,
        typer.Option(
            metavar="yes|no", help="no: only what the guest shares, of any VM (default: yes)"
        ),
    ] = "yes",
    json_: AsJson = False,
) -> None:
    """Dump the memory of a debuggable VM, for crash, drgn and makedumpfile.

    The state of each page is in the dump, as a note, and beside it, in FILE.pages.npz.
    """
    from cvmlab.dump.contents import Reach
    from cvmlab.dump.take import DumpFormat, convert_dump, take_dump
    from cvmlab.runs.run_dir import MEMORY_CORE

    wanted = DumpFormat(choose("--format", form, DumpFormat))
    reach = Reach.ALL if choose("--private", private, ("yes", "no")) == "yes" else Reach.SHARED
    kept = _folder(name) / MEMORY_CORE

    async def work() -> "Taken":
        async with attached(name) as vm:
            return await take_dump(vm, file, form=wanted, reach=reach)

    is_over = kept.is_file()
    taken = convert_dump(kept, file, form=wanted, reach=reach) if is_over else run(work())
    _tell(taken, as_json=json_)


def _folder(name: str) -> Path:
    """Return the run folder of that path or name, which need not be one."""
    from cvmlab.runs.run_dir import runs_dir

    return Path(name) if "/" in name else runs_dir() / name


def _tell(taken: "Taken", *, as_json: bool) -> None:
    if as_json:
        told = {
            "file": str(taken.file),
            "page_states": str(taken.sidecar),
            "size_bytes": taken.size,
            "standstill_s": round(taken.standstill_s, 4),
            "memory": taken.reach.value,
        }
        typer.echo(json.dumps(told, indent=2))
        return
    size = f"{taken.size / (1 << 20):.1f} MiB"
    still = f"; the guest stood still for {taken.standstill_s * 1000:.0f} ms"
    typer.echo(
        safe(f"{taken.file}: {size}, {taken.reach} memory{still if taken.standstill_s else ''}")
    )


def drgn(
    target: Annotated[
        str,
        typer.Argument(metavar="VM|FILE", help="Name or run folder of a debuggable VM, or a dump"),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS...", help="Arguments of drgn")
    ] = None,
    *,
    symbols: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="vmlinux with debug information (default: that of the build tree, or Debian's)",
        ),
    ] = None,
) -> None:
    """Debug the kernel of a debuggable VM while it runs, or a dump, with drgn.

    Options of this command come before the VM.
    """
    from cvmlab.dump.debuggers import drgn_on_dump, drgn_on_vm

    async def work() -> list[str]:
        async with attached(target) as vm:
            return await drgn_on_vm(vm, words or (), symbols=symbols, on_step=_step)

    if Path(target).is_file():
        command = drgn_on_dump(Path(target), words or (), symbols=symbols, on_step=_step)
    else:
        command = run(work())
    _become(command)


def gdb(
    name: Annotated[
        str,
        typer.Argument(metavar="VM", help="Name or run folder of a VM that was started with --gdb"),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS...", help="Arguments of gdb")
    ] = None,
    *,
    symbols: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="vmlinux with debug information (default: that of the build tree, or names of functions alone)",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Wait so long for a replay's moment (default: 600)"
        ),
    ] = 600.0,
) -> None:
    """Debug the kernel of a VM that was started with --gdb, with the names of its functions.

    A replay is waited for, until it stops at its moment. Options of this command come before the VM.
    """
    from cvmlab.dump.gdb import gdb_on_vm

    async def work() -> list[str]:
        async with attached(name) as vm:
            return await gdb_on_vm(
                vm, words or (), symbols=symbols, timeout_s=timeout, on_step=_step
            )

    _become(run(work()))


def _step(text: str) -> None:
    typer.echo(f"cvmlab: {safe(text)}", err=True)


def _become(command: list[str]) -> None:
    """Run *command* in place of this process, with its terminal."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be started: {error.strerror}") from error
