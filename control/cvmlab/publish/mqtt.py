# SPDX-License-Identifier: GPL-2.0-or-later
"""Publish a VM to an MQTT broker, and (if asked for) take commands from it.

Topics are ``cvmlab/<host>/<vm>/``: ``state`` and ``pages`` (retained), ``event/fault``,
``event/allowed`` and ``event/phase`` (at least once, each event with its number), ``event/memory``
(sums).  While the broker is lost, the publisher keeps reconnecting; then it sends again what must
arrive and was not confirmed.
"""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import aiomqtt

from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.publish.telemetry import (
    Message,
    devices_in,
    encoded,
    pages_message,
    promised,
    state_message,
    summed_up,
)
from cvmlab.publish.vm_feed import Feed, Watched
from cvmlab.results.result import from_json


Say = Callable[[str], None]
PORT, TLS_PORT = 1883, 8883
RECONNECT_S = 0.5
FAREWELL_S = 15.0  # how long the end of a boot waits for a lost broker
_INTERVAL_S = 0.5
_GREETING_S = 4.0
# aiomqtt may not report a connection that breaks just after it was made; then only a timeout finds
# it.  Shorter than FAREWELL_S, so that the last message is tried again.
_CONFIRM_S = 4.0
_KEEPALIVE_S = 20
# The client library logs every broken connection; Publisher reports each loss once.
_SILENT = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_COMMANDS = ("convert", "pause", "cont", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """The broker to publish to, and how to log in."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None  # None: the system's certificates
    commands: bool = False

    def require(self) -> None:
        """Raise ConfigError for options that contradict, or would let anybody send commands."""
        if self.commands and (self.user is None or not self.password):
            raise ConfigError(
                "commands need a broker with a user name and a password",
                hint="give --mqtt-user and --mqtt-password-file, or leave --mqtt-commands out",
            )
        if self.ca is not None and not self.ca.is_file():
            raise ConfigError(
                f"--mqtt-ca: there is no file {self.ca}",
                hint="give the certificate of the authority that signed the broker's",
            )

    def client(self, will: Message, base: str) -> aiomqtt.Client:
        """Return a client; it connects when its block is entered."""
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=self.ca)
        return aiomqtt.Client(
            self.host,
            self.port,
            username=self.user,
            password=self.password,
            tls_context=context,
            keepalive=_KEEPALIVE_S,
            will=aiomqtt.Will(f"{base}/{will.topic}", will.payload, qos=1, retain=True),
            # A broker that goes down at that moment never answers, and no error is raised.
            timeout=_GREETING_S,
            logger=_SILENT,
        )


def parse_address(text: str, *, tls: bool) -> tuple[str, int]:
    """Read ``HOST[:PORT]``; an IPv6 address with a port is in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port or (":" in host and not host.startswith("[")):
        host, port = text, str(TLS_PORT if tls else PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{text!r} is not a broker address", hint="write HOST or HOST:PORT")
    return host, int(port)


def topic_base(vm: str) -> str:
    """Return the prefix of all topics of a VM."""
    host = socket.gethostname().translate(str.maketrans("/+#", "---"))
    return f"cvmlab/{host}/{vm}"


async def require_reachable(broker: Broker) -> None:
    """Raise ConfigError if it is not possible to log in to the broker now."""
    broker.require()
    try:
        async with broker.client(state_message("lost"), topic_base("_probe")):
            pass
    except (aiomqtt.MqttError, OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot log in to the MQTT broker at {broker.host}:{broker.port}: {error}",
            hint="check address, user, password and TLS; or leave --mqtt out",
        ) from error


@final
class Publisher:
    """Publishes one VM until finish(), over as many connections as that takes."""

    def __init__(self, feed: Feed, broker: Broker, label: str, say: Say) -> None:
        self.base = topic_base(label)
        self._say = say
        self.sent = 0  # messages that were promised, and confirmed
        self.connections = 0
        self._feed = feed
        self._broker = broker
        self._ending: Message | None = None
        self._wake = asyncio.Event()
        self._pages: Message | None = None

    def finish(self, **more: object) -> None:
        """Send what is left and the state ``ended``; run() then returns."""
        self._ending = state_message("ended", **more)
        self._wake.set()

    async def run(self) -> None:
        """Publish; reconnect until all is sent."""
        lost = False
        while True:
            client = self._broker.client(state_message("lost"), self.base)
            try:
                async with client:
                    self.connections += 1
                    if lost:
                        self._say("the broker is back")
                        lost = False
                    await self._session(client)
                    return
            except (aiomqtt.MqttError, OSError):
                if not lost:
                    self._say("the broker is lost: reconnecting; messages are kept until then")
                    lost = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), RECONNECT_S)
                _retrieve_errors(client)  # only now: they may be set after the error above

    async def _session(self, client: aiomqtt.Client) -> None:
        await self._send(client, state_message("running", run=self._feed.vm.run.path.name))
        self._pages = None
        commands = (
            asyncio.create_task(self._serve_commands(client)) if self._broker.commands else None
        )
        try:
            while not await self._publish(client):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _INTERVAL_S)
                if commands is not None and commands.done():
                    commands.result()  # it ends only by an error, such as a lost broker
        finally:
            if commands is not None:
                commands.cancel()
                await asyncio.gather(commands, return_exceptions=True)

    async def _publish(self, client: aiomqtt.Client) -> bool:
        """Send everything that is new; return whether it was the last of the VM."""
        ending = self._ending
        while len(records := self._feed.read()):
            names = await self._feed.devices(devices_in(records))
            for message in promised(records, names):
                await self._send(client, message)
            await self._send(client, summed_up(records))
            # Only now: after a reconnect, what was not confirmed is read again.
            self._feed.done(records)
        pages = pages_message(self._feed.vm.pages.counts(), self._feed.counters())
        if pages != self._pages:
            await self._send(client, pages)
            self._pages = pages
        if ending is None:
            return False
        await self._send(client, ending)
        return True

    async def _send(self, client: aiomqtt.Client, message: Message) -> None:
        # Each confirmation is awaited, so unsent records stay in the file and not in memory.
        await client.publish(
            f"{self.base}/{message.topic}",
            message.payload,
            qos=1 if message.promised else 0,
            retain=message.retained,
            timeout=_CONFIRM_S,
        )
        self.sent += message.promised

    async def _serve_commands(self, client: aiomqtt.Client) -> None:
        await client.subscribe(f"{self.base}/command/+", qos=1)
        async for message in client.messages:
            if message.retain:  # an old command, for a VM that has ended
                continue
            verb = str(message.topic).rpartition("/")[2]
            reply = await _answer(self._feed.vm, verb, message.payload)
            await self._send(client, Message("reply", encoded(reply), promised=True))


def _retrieve_errors(client: aiomqtt.Client) -> None:
    """Retrieve the connection's errors; asyncio prints a traceback of those never retrieved."""
    for ended in (client._connected, client._disconnected):  # noqa: SLF001 - there is no public way
        if ended.done() and not ended.cancelled():
            ended.exception()


async def _answer(vm: Watched, verb: str, payload: Any) -> dict[str, object]:
    """Run one command; return the answer, which repeats the sender's ``id``."""
    number: object = None
    try:
        values = _object(payload)
        number = values.get("id")
        return {"id": number, "command": verb, "ok": True, **await _run(vm, verb, values)}
    except CvmError as error:
        text = error.message
    except (ValueError, RecursionError) as error:
        text = f"not JSON: {error}"
    except Exception as error:  # noqa: BLE001 - one bad command must not silence the next ones
        text = f"a defect of cvmlab: {type(error).__name__}: {error}"
    return {"id": number, "command": verb, "ok": False, "error": text}


def _object(payload: Any) -> dict[str, Any]:
    values = json.loads(payload or b"{}")
    if not isinstance(values, dict):
        raise ConfigError("a command is a JSON object")
    return values


async def _run(vm: Watched, verb: str, values: dict[str, Any]) -> dict[str, object]:
    match verb:
        case "convert":
            ranges, to = values.get("ranges"), values.get("to")
            if not isinstance(ranges, list) or not all(isinstance(one, str) for one in ranges):
                raise ConfigError('convert needs "ranges", a list of text such as "1M+8K"')
            return {"pages": await vm.convert(ranges, str(to))}
        case "pause":
            await vm.pause()
        case "cont":
            await vm.cont()
        case "stop":
            await vm.stop()
        case _:
            raise ConfigError(f"unknown command {verb!r}; known are {', '.join(_COMMANDS)}")
    return {}


def _verdict(vm: Watched) -> dict[str, object]:
    """Return the verdict on the run, if there is one yet."""
    path = vm.run.path / "result.json"
    if not path.is_file():
        return {}
    result = from_json(path.read_bytes())
    return {"outcome": result.outcome, "exit_code": result.exit_code, "message": result.message}


@asynccontextmanager
async def publishing(
    vm: Watched,
    broker: Broker,
    *,
    label: str | None = None,
    farewell_s: float = FAREWELL_S,
    say: Say = lambda _text: None,
) -> AsyncIterator[Publisher]:
    """Publish *vm* while the block runs; at its end send the rest, for at most *farewell_s*.

    *label* replaces the VM's name in topics.  *say* is called when the broker is lost and when it is
    back.  Raise ConfigError at the end if events that must arrive were not delivered.
    """
    with Feed(vm) as feed:
        publisher = Publisher(feed, broker, label or vm.name, say)
        task = asyncio.create_task(publisher.run())
        try:
            yield publisher
            publisher.finish(**_verdict(vm))
            done, _ = await asyncio.wait({task}, timeout=farewell_s)
            if not done:
                raise ConfigError(
                    f"the broker is lost: {feed.waiting} events were not published",
                    hint="they are in events.bin of the run folder",
                )
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
