# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the machine and cvmlab itself: doctor, images, build, test."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typing_extensions import override

from cvmlab.base.errors import ConfigError
from cvmlab.cli.help_text import Command, register
from cvmlab.cli.row_parameters import option
from cvmlab.cli.session import style_of


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
ProgressStyle = Annotated[str | None, option("progress")]


class Verbatim(Command):
    """A command that gets every word after its name, ``--`` among them, which tox reads."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        ours = words[: words.index("--")] if "--" in words else words
        if not {"-h", "--help"}.isdisjoint(ours):
            return super().parse_args(ctx, ["--help"])
        super().parse_args(ctx, [])
        ctx.args = words
        return words


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (doctor, images, build):
        register(app, command)
    app.command(cls=Verbatim)(test)


def build(
    *,
    qemu_version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="QEMU version: 10.0 or 11.1 (default: 10.0)"),
    ] = None,
    qemu_source: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="QEMU 10.x or 11.x source: folder, tarball or .dsc (default: from Debian)",
        ),
    ] = None,
    arch: Annotated[str | None, option("arch")] = None,
    stock: Annotated[
        bool, typer.Option("--stock", help="Build QEMU without the plugin, to compare with")
    ] = False,
    sanitize: Annotated[
        bool,
        typer.Option("--sanitize", help="Build QEMU under ASan and UBSan, to find its errors"),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build again, even if it is built already")
    ] = False,
    pgo: Annotated[
        bool,
        typer.Option(
            "--pgo",
            help="Build the fastest QEMU: twice, with boots between, to optimize by a profile",
        ),
    ] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a wheel with QEMU (built as with --pgo) and firmware to DIR"
        ),
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """Build QEMU with the plugin and print its path."""
    from cvmlab.cli.training import training
    from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE
    from cvmlab.qemu import build as building

    if wheel is not None:
        from cvmlab.qemu.wheel import build_wheel

        if qemu_version or qemu_source or stock or sanitize or force or arch:
            raise ConfigError(
                "--wheel packs the QEMU that is already built",
                hint="run `cvmlab build` with the other options first",
            )
        train = training(stock=False, architecture=DEFAULT_ARCHITECTURE)
        typer.echo(build_wheel(wheel, train=train, style=style_of(progress)))
        return

    architecture = ARCHITECTURES.choose("--arch", arch or DEFAULT_ARCHITECTURE.name)
    status = building.main(
        qemu_version=qemu_version,
        qemu_source=qemu_source,
        stock=stock,
        tuning="pgo" if pgo else None,
        train=training(stock=stock, architecture=architecture),
        architecture=architecture,
        sanitize=sanitize,
        force=force,
        style=style_of(progress),
    )
    raise typer.Exit(status)


def test(context: typer.Context) -> None:
    """Run all tests with tox. Arguments go to tox, such as `-e unit`; those after `--` go to pytest."""
    from cvmlab.cli import selftest

    raise typer.Exit(selftest.main(context.args))


def doctor(*, json_: AsJson = False) -> None:
    """Check what works on this machine. Each part is PASS, FAIL or SKIP."""
    from cvmlab.cli import doctor as examination

    raise typer.Exit(examination.main(as_json=json_))


def images(
    *,
    json_: AsJson = False,
    rebuild: Annotated[
        str | None,
        typer.Option(metavar="DISK", help="Build this disk image again, from current packages"),
    ] = None,
    progress: ProgressStyle = None,
) -> None:
    """List the images that `cvmlab boot` can boot by name."""
    from cvmlab.images import boot_files as known

    if rebuild is not None:
        known.rebuild(rebuild, style_of(progress))
    raise typer.Exit(known.main(as_json=json_))
