# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab serve``, and the broker that a boot publishes to."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe
from cvmlab.cli.help_text import register
from cvmlab.cli.row_parameters import with_options
from cvmlab.cli.session import run
from cvmlab.machine.option import Group
from cvmlab.machine.option_rows import OPTIONS


if TYPE_CHECKING:
    from cvmlab.publish.mqtt import Broker

PASSWORD = "CVMLAB_MQTT_PASSWORD"
_ROWS = tuple(row for row in OPTIONS if row.group is Group.PUBLISHING)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    register(app, serve)


def broker_of(given: Mapping[str, Any]) -> "Broker | None":
    """Read the options; None if nothing is to be published.  Raise ConfigError."""
    if given["mqtt"] is None:
        other = next((row.label for row in _ROWS if given[row.name]), None)
        if other is not None:
            raise ConfigError(f"{other} needs --mqtt", hint="add --mqtt HOST")
        return None
    from cvmlab.publish.mqtt import Broker, parse_address

    ca, password_file = given["mqtt_ca"], given["mqtt_password_file"]
    tls = given["mqtt_tls"] or ca is not None
    host, port = parse_address(given["mqtt"], tls=tls)
    broker = Broker(
        host=host,
        port=port,
        user=given["mqtt_user"],
        password=_password(None if password_file is None else Path(password_file)),
        tls=tls,
        ca=None if ca is None else Path(ca),
        commands=given["mqtt_commands"],
    )
    broker.require()
    return broker


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD)
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0]
    except OSError as error:
        raise ConfigError(f"--mqtt-password-file: {file}: {error.strerror}") from error


@with_options(_ROWS)
def serve(
    *,
    metrics: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve Prometheus metrics on 127.0.0.1:PORT"
        ),
    ] = None,
    **given: Any,
) -> None:
    """Publish all VMs of this user until Ctrl-C. VMs that start later are included."""
    broker = broker_of(given)
    if broker is None and metrics is None:
        raise ConfigError("nothing to serve", hint="give --mqtt HOST, --metrics PORT, or both")
    from cvmlab.publish.serving import serve_all

    run(serve_all(broker, metrics, say=lambda text: typer.echo(safe(text))))
