# SPDX-License-Identifier: GPL-2.0-or-later
"""The command that replaces the QEMU of a VM running in another terminal."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.cli.running import AsJson, VmName, chosen_run
from cvmlab.cli.session import run


if TYPE_CHECKING:
    from cvmlab.handover import Upgrade


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(upgrade)


def upgrade(
    name: VmName = None,
    *,
    qemu: Annotated[
        Path | None, typer.Option(metavar="NEW", help="The new QEMU; default: as it was started.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Seconds until the old QEMU goes on.")
    ] = 60.0,
    json_: AsJson = False,
) -> None:
    """Replace the QEMU under a running guest, whose memory stays where it is.

    Until the new QEMU runs the guest, any failure leaves it in the old one.
    """

    program = None if qemu is None else qemu.absolute()

    async def work() -> "Upgrade":
        from cvmlab.ownersocket import ask_to_upgrade

        return await ask_to_upgrade(chosen_run(name).path, program, timeout)

    done = run(work())
    if json_:
        import msgspec

        typer.echo(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    typer.echo(
        f"QEMU {done.old_version} (process {done.old_pid}) was replaced by "
        f"{done.new_version} (process {done.new_pid})\n"
        f"downtime {done.downtime_s * 1000:.1f} ms; {done.bytes_sent} bytes of CPUs and devices "
        "were sent, no memory"
    )
