# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab serve``, and the options by which a boot publishes itself."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmlab.cli.session import run
from cvmlab.errors import ConfigError


if TYPE_CHECKING:
    from cvmlab.mqtt import Broker

PASSWORD = "CVMLAB_MQTT_PASSWORD"
Mqtt = Annotated[
    str | None, typer.Option("--mqtt", metavar="HOST[:PORT]", help="Publish to an MQTT broker.")
]
MqttUser = Annotated[str | None, typer.Option(metavar="NAME", help="Who we are to the broker.")]
MqttPasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help=f"Its first line; default: ${PASSWORD}.")
]
MqttTls = Annotated[bool, typer.Option("--mqtt-tls", help="Speak TLS with the broker.")]
MqttCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Who vouches for the broker; implies TLS.")
]
MqttCommands = Annotated[
    bool,
    typer.Option("--mqtt-commands", help="Obey convert, pause, cont, stop; needs a password."),
]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)


def broker_of(
    address: str | None,
    user: str | None,
    password_file: Path | None,
    *,
    tls: bool,
    ca: Path | None,
    commands: bool,
) -> "Broker | None":
    """Read the options; None if nothing is to be published.  Raise ConfigError."""
    if address is None:
        if user is not None or password_file is not None or tls or ca is not None or commands:
            raise ConfigError("--mqtt-... without --mqtt", hint="say where the broker is")
        return None
    from cvmlab.mqtt import Broker, parse_address

    tls = tls or ca is not None
    host, port = parse_address(address, tls=tls)
    broker = Broker(
        host=host,
        port=port,
        user=user,
        password=_password(password_file),
        tls=tls,
        ca=ca,
        commands=commands,
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


def serve(
    *,
    mqtt: Mqtt = None,
    mqtt_user: MqttUser = None,
    mqtt_password_file: MqttPasswordFile = None,
    mqtt_tls: MqttTls = False,
    mqtt_ca: MqttCa = None,
    mqtt_commands: MqttCommands = False,
    metrics: Annotated[
        int | None, typer.Option(metavar="PORT", help="Prometheus text on 127.0.0.1.")
    ] = None,
) -> None:
    """Publish all VMs of this user, those that start later too, until Ctrl-C."""
    broker = broker_of(
        mqtt, mqtt_user, mqtt_password_file, tls=mqtt_tls, ca=mqtt_ca, commands=mqtt_commands
    )
    if broker is None and metrics is None:
        raise ConfigError("nothing to serve", hint="give --mqtt HOST, --metrics PORT, or both")
    from cvmlab.serving import serve_all

    run(serve_all(broker, metrics, say=typer.echo))
