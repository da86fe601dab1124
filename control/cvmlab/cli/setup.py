# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the machine and cvmlab itself: doctor, images, build, test."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typing_extensions import override

from cvmlab.cli.session import style_of
from cvmlab.errors import ConfigError


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProgressStyle = Annotated[
    str | None,
    typer.Option("--progress", metavar="auto|plain|rich|none", help="How to show progress."),
]


class Verbatim(TyperCommand):
    """A command that gets every word after its name, ``--`` among them, which tox reads."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        super().parse_args(ctx, [])
        ctx.args = words
        return words


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (doctor, images, build):
        app.command()(command)
    app.command(cls=Verbatim, add_help_option=False)(test)


def build(
    *,
    qemu_source: Annotated[
        Path | None, typer.Option(metavar="DIR|TARBALL", help="QEMU 10.0.x; default: Debian's.")
    ] = None,
    stock: Annotated[bool, typer.Option("--stock", help="Without the plugin, to compare.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if it is built already.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a wheel that carries QEMU and firmware to DIR."),
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """Build QEMU with the plugin; print where it is."""
    from cvmlab import build as building

    if wheel is not None:
        from cvmlab.wheel import build_wheel

        if qemu_source or stock or force:
            raise ConfigError(
                "--wheel takes the QEMU that is built already",
                hint="run `cvmlab build` with the other options first",
            )
        typer.echo(build_wheel(wheel, style=style_of(progress)))
        return

    status = building.main(
        qemu_source=qemu_source, stock=stock, force=force, style=style_of(progress)
    )
    raise typer.Exit(status)


def test(context: typer.Context) -> None:
    """Run all tests: tox, with the arguments given."""
    from cvmlab import selftest

    raise typer.Exit(selftest.main(context.args))


def doctor(*, json_: AsJson = False) -> None:
    """Say what works on this machine, line by line: PASS, FAIL or SKIP."""
    from cvmlab import doctor as examination

    raise typer.Exit(examination.main(as_json=json_))


def images(
    *,
    json_: AsJson = False,
    rebuild: Annotated[
        str | None, typer.Option(metavar="DISK", help="Build this disk again, of today's packages.")
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """List the images that `cvmlab boot` knows."""
    from cvmlab import images as known

    if rebuild is not None:
        known.rebuild(rebuild, style_of(progress))
    raise typer.Exit(known.main(as_json=json_))
