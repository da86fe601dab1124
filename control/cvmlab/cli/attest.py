# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab attest``: a test PKI for ``cvmlab boot --attest``, and what a verifier must be told of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import Command, CommandGroup


if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvmlab.pki.authorities import Pki

_SEED_BYTES = 16

attest = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    epilog="Whoever trusts such a root trusts an emulator: its keys are no secrets.",
)
Folder = Annotated[Path, Argument(metavar="DIR", help="Folder of the test PKI")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(
        attest, name="attest", help="Make a root of your own for quotes and reports, and show it."
    )


@attest.command(cls=Command)
def init(
    folder: Folder,
    *,
    seed: Annotated[
        str | None,
        Option(
            metavar="S", help="The same text gives the same keys and certificates (default: new)"
        ),
    ] = None,
) -> None:
    """Make a test PKI: for TDX a root, PCK CA and TCB signer, for SNP an ARK, ASK and ASVK of each product.

    It takes about ten seconds.
    """
    import secrets

    from cvmlab.pki import pki_folder
    from cvmlab.pki.authorities import Pki
    from cvmlab.pki.derived import Seed

    pki_folder.require_new(folder)
    pki = Pki.of(Seed(secrets.token_hex(_SEED_BYTES) if seed is None else seed))
    pki_folder.save(pki, folder)
    _print_roots(folder, pki)


@attest.command(cls=Command)
def show(
    folder: Folder,
    *,
    json_: Annotated[bool, Option("--json", help="Print JSON, with the certificates")] = False,
) -> None:
    """Print the roots of a test PKI: where they are, and their digests."""
    from cvmlab.pki.pki_folder import load

    pki = load(folder)
    if json_:
        typer.echo(json.dumps({"emulated": True, "seed": pki.seed.text, "roots": _roots(folder, pki)},
                              indent=2))  # fmt: skip
        return
    _print_roots(folder, pki)


@attest.command(cls=Command)
def serve(
    folder: Folder,
    *,
    port: Annotated[
        int, Option(metavar="N", min=0, max=65535, help="Port on 127.0.0.1 (default: a free one)")
    ] = 0,
    scenario: Annotated[
        str,
        Option(
            metavar="WORD",
            help="How the services answer, such as revoked, expired or 429 (default: good)",
        ),
    ] = "good",
    delay: Annotated[
        float, Option(metavar="SECONDS", min=0, help="How long `slow` takes (default: 30)")
    ] = 30,
) -> None:
    """Serve what verifiers fetch: a PCCS (/sgx, /tdx; version 4) and a KDS (/vcek, /vlek).

    Each request is a line. Ctrl-C ends it.
    """
    import threading
    from contextlib import suppress

    from cvmlab.base.choices import choose
    from cvmlab.collateral.scenarios import MEANINGS, Scenario
    from cvmlab.collateral.web_services import web_services
    from cvmlab.pki.pki_folder import load

    word = Scenario(choose("--scenario", scenario, Scenario))

    def tell(line: str) -> None:
        typer.echo(safe(line), err=True)

    with web_services(load(folder), word, port=port, delay_s=delay, told=tell) as address:
        typer.echo(address)
        tell(f"scenario {word}: {MEANINGS[word]} (emulated: no vendor stands behind it)")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def _print_roots(folder: Path, pki: "Pki") -> None:
    typer.echo(safe(f"test PKI of seed {pki.seed.text} (emulated: no vendor stands behind it)"))
    for root in _roots(folder, pki):
        typer.echo(safe(f"{root['name']}"))
        for word in ("pem", "der", "sha256", "sha384"):
            typer.echo(safe(f"  {word:<7} {root[word]}"))


def _roots(folder: Path, pki: "Pki") -> "list[dict[str, Any]]":
    return list(_each_root(folder, pki))


def _each_root(folder: Path, pki: "Pki") -> "Iterator[dict[str, Any]]":
    """Yield what a verifier may want of each root: files, digests of the DER, and the text."""
    import hashlib

    from cvmlab.pki.certificates import EMULATED
    from cvmlab.pki.pki_folder import places

    for place, identity in places(pki):
        if identity.certificate.subject != identity.certificate.issuer:
            continue
        path = folder / place
        yield {
            "name": f"{identity.common_name} ({EMULATED})",
            "pem": str(path.with_suffix(".pem")),
            "der": str(path.with_suffix(".der")),
            "sha256": hashlib.sha256(identity.der).hexdigest(),
            "sha384": hashlib.sha384(identity.der).hexdigest(),
            "certificate": identity.pem,
        }
