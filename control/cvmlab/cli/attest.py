# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab attest``: a test PKI for ``cvmlab boot --attest``.  ``cvmlab measure``: what a guest will report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import Command, CommandGroup, register
from cvmlab.cli.row_parameters import with_options
from cvmlab.machine.option import Form, Group
from cvmlab.machine.option_rows import BY_NAME, having


if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvmlab.boot.request import Request
    from cvmlab.machine.spec import BootSpec
    from cvmlab.pki.authorities import Pki

_SEED_BYTES = 16
_COMPARED = "RTMR0"  # the register whose events are compared with what is known of them
# The boot options that say what the guest is, so that a command line of boot can be measured.
_MEASURED = (Group.GUEST, Group.PROFILE, Group.MACHINE)

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
    register(app, measure)


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
    """Make a test PKI: for TDX a root, PCK CAs and TCB signer, for SNP an ARK, ASK and ASVK of each product,
    for CCA a root and the platform attestation key.

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
    https: Annotated[
        bool,
        Option(
            "--https", help="Serve by HTTPS; clients are to trust DIR/web.pem, which this writes"
        ),
    ] = False,
) -> None:
    """Serve what verifiers fetch: a PCCS (/sgx, /tdx; version 4) and a KDS (/vcek, /vlek).

    Each request is a line. Ctrl-C ends it.
    """
    import threading
    from contextlib import suppress

    from cvmlab.base.choices import choose
    from cvmlab.collateral.scenarios import MEANINGS, Scenario
    from cvmlab.collateral.web_services import web_services
    from cvmlab.pki.pki_folder import load, save_web_certificate

    word = Scenario(choose("--scenario", scenario, Scenario))

    def tell(line: str) -> None:
        typer.echo(safe(line), err=True)

    pki = load(folder)
    if https:
        tell(f"clients are to trust {save_web_certificate(pki, folder)}")
    with web_services(pki, word, port=port, delay_s=delay, by_https=https, told=tell) as address:
        typer.echo(address)
        tell(f"scenario {word}: {MEANINGS[word]} (emulated: no vendor stands behind it)")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


@attest.command(cls=Command, name="id-block")
@with_options(row for row in having(Form.COMMAND) if row.group in _MEASURED)
def id_block(
    folder: Folder,
    *,
    author: Annotated[
        bool,
        Option("--author", help="Have an author key sign the ID key, and the firmware check it"),
    ] = False,
    json_: Annotated[
        bool, Option("--json", help="Print JSON, with the digests of the keys")
    ] = False,
    **given: Any,
) -> None:
    """Print the boot options by which only a guest of these boot options is launched (SNP).

    The keys are of the test PKI: an ID key, and an author key.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1

    from cvmlab.attestation.id_blocks import SignedBlock, key_digest
    from cvmlab.measurement.id_block_of import id_block_of
    from cvmlab.pki.pki_folder import load

    seed = load(folder).seed
    key, author_key = (seed.ec_key(name, SECP384R1()) for name in ("ID key", "author key"))
    block = id_block_of(_machine(_request(given)))
    signed = SignedBlock.made(block, key, author_key if author else None)
    if json_:
        digests = {"id_key": key_digest(key).hex()}
        digests |= {"author_key": key_digest(author_key).hex()} if author else {}
        typer.echo(
            json.dumps({"emulated": True, "coco_options": signed.options, **digests}, indent=2)
        )
        return
    for option in signed.options:
        typer.echo(f"--coco-option {option}")


@with_options(row for row in having(Form.COMMAND) if row.group in _MEASURED)
def measure(
    *,
    event_log: Annotated[
        Path | None,
        Option(metavar="FILE", help="Event log of a TD (CCEL), to be replayed into RTMR0 to RTMR3"),
    ] = None,
    json_: Annotated[bool, Option("--json", help="Print JSON")] = False,
    **given: Any,
) -> None:
    """Print what a guest of these boot options will report of its launch, without booting it."""
    from cvmlab.measurement.prediction import predict

    spec = _machine(_request(given))
    rows = [(one.name, one.value, one.note) for one in predict(spec)]
    if event_log is not None:
        is_predicted = any(name == _COMPARED for name, _, _ in rows)
        replayed = list(_replayed(event_log, spec if is_predicted else None))
        names = {name for name, _, _ in replayed}
        rows = [*(row for row in rows if row[0] not in names), *replayed]
    if json_:
        values = {name: value and value.hex() for name, value, _ in rows}
        typer.echo(json.dumps({"emulated": True, "values": values}, indent=2))
        return
    for name, value, note in rows:
        typer.echo(f"{name:<12} {'-' if value is None else value.hex()}")
        typer.echo(f"{'':<12} {note}")


def _request(given: dict[str, Any]) -> "Request":
    from cvmlab.boot.request import Request

    return Request.of(**{BY_NAME[name].keyword: value for name, value in given.items()})


def _machine(request: "Request") -> "BootSpec":
    """Return the machine of a request, as a boot makes it; it needs no QEMU."""
    from cvmlab.base.progress import Style
    from cvmlab.boot.boot_guest import guest_of
    from cvmlab.boot.guest_machine import machine_of
    from cvmlab.boot.read_request import read_request
    from cvmlab.debian.packages import silent

    words = read_request(request)
    return machine_of(words, guest_of(words, silent, Style.NONE))


def _replayed(path: Path, spec: "BootSpec | None") -> "Iterator[tuple[str, bytes, str]]":
    """Yield the rows of the log at *path*; events are compared with those of *spec*, if it has some."""
    from cvmlab.measurement.event_log import events, replay
    from cvmlab.measurement.prediction import differing_events

    try:
        found = events(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    compared = "" if spec is None else f"; {_compared(differing_events(spec, found))}"
    for number, value in enumerate(replay(found)):
        name = f"RTMR{number}"
        events_of = [event.name for event in found if event.rtmr == number]
        listed = f": {', '.join(dict.fromkeys(events_of))}" if events_of else ""
        note = f"{len(events_of)} events{listed}"
        yield name, value, note + compared if name == _COMPARED else note


def _compared(differing: list[str] | None) -> str:
    if differing is None:
        return "not the events of such a machine"
    return f"not of such a machine: {', '.join(differing)}" if differing else "what is known fits"


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
