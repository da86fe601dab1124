# SPDX-License-Identifier: GPL-2.0-or-later
"""The command that replaces the QEMU of a VM running in another terminal."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import register
from cvmlab.cli.running import AsJson, VmName, chosen_run
from cvmlab.cli.session import run


if TYPE_CHECKING:
    from cvmlab.vm.handover import Upgrade


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    register(app, upgrade)


def upgrade(
    name: VmName = None,
    *,
    qemu: Annotated[
        Path | None,
        typer.Option(
            metavar="PROGRAM", help="New QEMU (default: the program that the VM was started with)"
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Give up after this time; the old QEMU continues (default: 60)",
        ),
    ] = 60.0,
    json_: AsJson = False,
) -> None:
    """Replace the QEMU process of a running guest. Guest memory stays in place.

    If anything fails before the new QEMU runs the guest, the guest continues in the old one.
    """

    program = None if qemu is None else qemu.absolute()

    async def work() -> "Upgrade":
        from cvmlab.vm.owner_socket import ask_to_upgrade

        return await ask_to_upgrade(chosen_run(name).path, program, timeout)

    done = run(work())
    if done.problem is not None:
        typer.echo(f"cvmlab: {safe(done.problem)}", err=True)
    if json_:
        import msgspec

        typer.echo(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    typer.echo(
        f"QEMU {done.old_version} (process {done.old_pid}) was replaced by "
        f"{done.new_version} (process {done.new_pid})\n"
        f"downtime {done.downtime_s * 1000:.1f} ms; {done.bytes_sent} bytes of CPU and device state "
        "were sent, no memory"
    )
