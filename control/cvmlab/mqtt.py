# SPDX-License-Identifier: GPL-2.0-or-later
"""Publish a VM to an MQTT broker, and (if asked for) take commands from it.

Topics are ``cvmlab/<host>/<vm>/``: ``state`` and ``pages`` (retained), ``event/fault`` and
``event/phase`` (at least once, each event with its number), ``event/memory`` (sums).  A broker
that is away is waited for; then everything promised and not confirmed is sent again.
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

from cvmlab.errors import ConfigError, CvmError
from cvmlab.feed import Feed, Watched
from cvmlab.result import from_json
from cvmlab.telemetry import (
    Message,
    devices_in,
    encoded,
    pages_message,
    promised,
    state_message,
    summed_up,
)


Say = Callable[[str], None]
PORT, TLS_PORT = 1883, 8883
RECONNECT_S = 0.5
FAREWELL_S = 15.0  # how long the end of a boot waits for a broker that is away
_INTERVAL_S = 0.5
_GREETING_S = 4.0
# aiomqtt can lose the news of a broken connection that broke just after the greeting; then only
# time tells.  Shorter than the farewell, so that a last message gets another try.
_CONFIRM_S = 4.0
_KEEPALIVE_S = 20
# The client's library reports each broken connection in words of its own; we say it once, in ours.
_SILENT = logging.getLogger(__name__)
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_COMMANDS = ("convert", "pause", "cont", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where to publish, and as whom."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None  # None: the system's
    commands: bool = False

    def require(self) -> None:
        """Raise ConfigError for what makes no sense, or would let anybody command."""
        if self.commands and (self.user is None or not self.password):
            raise ConfigError(
                "commands are taken only from a broker that knows us by a password",
                hint="give --mqtt-user and --mqtt-password-file, or leave --mqtt-commands out",
            )
        if self.ca is not None and not self.ca.is_file():
            raise ConfigError(f"--mqtt-ca: there is no file {self.ca}")

    def client(self, will: Message, base: str) -> aiomqtt.Client:
        """Return a client that is not connected yet."""
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
            # A broker that goes down just then never answers the greeting, and nobody is told.
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
        raise ConfigError(f"{text!r} is no address of a broker", hint="write HOST or HOST:PORT")
    return host, int(port)


def topic_base(vm: str) -> str:
    """Return the topic that all of a VM's begin with."""
    host = socket.gethostname().translate(str.maketrans("/+#", "---"))
    return f"cvmlab/{host}/{vm}"


async def require_reachable(broker: Broker) -> None:
    """Raise ConfigError if the broker does not answer now, or does not let us in."""
    broker.require()
    try:
        async with broker.client(state_message("lost"), topic_base("_probe")):
            pass
    except (aiomqtt.MqttError, OSError) as error:
        raise ConfigError(
            f"no MQTT broker at {broker.host}:{broker.port} that lets us in: {error}",
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
        """Publish; reconnect for ever."""
        away = False
        while True:
            client = self._broker.client(state_message("lost"), self.base)
            try:
                async with client:
                    self.connections += 1
                    if away:
                        self._say("the broker is back")
                        away = False
                    await self._session(client)
                    return
            except (aiomqtt.MqttError, OSError):
                if not away:
                    self._say("the broker is away: trying again, what is to be sent is kept")
                    away = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), RECONNECT_S)
                _take_note(client)  # not before: the news of the end may come after the error

    async def _session(self, client: aiomqtt.Client) -> None:
        await self._send(client, state_message("running", run=self._feed.vm.run.path.name))
        self._pages = None
        commands = asyncio.create_task(self._obey(client)) if self._broker.commands else None
        try:
            while not await self._publish(client):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _INTERVAL_S)
        finally:
            if commands is not None:
                commands.cancel()
                await asyncio.gather(commands, return_exceptions=True)

    async def _publish(self, client: aiomqtt.Client) -> bool:
        """Send all there is; return whether that was the last of it."""
        ending = self._ending
        while len(records := self._feed.read()):
            names = await self._feed.devices(devices_in(records))
            for message in promised(records, names):
                await self._send(client, message)
            await self._send(client, summed_up(records))
            # Only now: whatever was not confirmed is read again after a reconnect.
            self._feed.position += len(records)
        pages = pages_message(self._feed.vm.pages.counts(), self._feed.vm.pages.counters())
        if pages != self._pages:
            await self._send(client, pages)
            self._pages = pages
        if ending is None:
            return False
        await self._send(client, ending)
        return True

    async def _send(self, client: aiomqtt.Client, message: Message) -> None:
        # Waiting for each confirmation is the back-pressure: what is not sent stays in the file.
        await client.publish(
            f"{self.base}/{message.topic}",
            message.payload,
            qos=1 if message.promised else 0,
            retain=message.retained,
            timeout=_CONFIRM_S,
        )
        self.sent += message.promised

    async def _obey(self, client: aiomqtt.Client) -> None:
        await client.subscribe(f"{self.base}/command/+", qos=1)
        async for message in client.messages:
            if message.retain:  # an old one, for a VM that is no more
                continue
            verb = str(message.topic).rpartition("/")[2]
            reply = await _obeyed(self._feed.vm, verb, message.payload)
            await self._send(client, Message("reply", encoded(reply), promised=True))


def _take_note(client: aiomqtt.Client) -> None:
    """Look at what ended the connection, or asyncio prints a traceback of what nobody looked at."""
    for ended in (client._connected, client._disconnected):  # noqa: SLF001 - nothing public says it
        if ended.done() and not ended.cancelled():
            ended.exception()


async def _obeyed(vm: Watched, verb: str, payload: Any) -> dict[str, object]:
    """Run one command; return what to answer, the sender's ``id`` in it."""
    number: object = None
    try:
        values = json.loads(payload or b"{}")
        if not isinstance(values, dict):
            raise ConfigError("a command is a JSON object")
        number = values.get("id")
        return {"id": number, "command": verb, "ok": True, **await _run(vm, verb, values)}
    except (ValueError, CvmError) as error:
        text = error.message if isinstance(error, CvmError) else f"not JSON: {error}"
        return {"id": number, "command": verb, "ok": False, "error": text}


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
            raise ConfigError(f"there is no command {verb!r}; there are {', '.join(_COMMANDS)}")
    return {}


def _verdict(vm: Watched) -> dict[str, object]:
    """How the run was judged, if that is known by now."""
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
    """Publish *vm* while the block runs; leaving it sends the rest, for at most *farewell_s*.

    *label* takes the place of the VM's name in topics.  *say* is told when the broker goes away and
    comes back.  Raise ConfigError in the end if promised events could not be delivered.
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
                    f"the broker is away: {feed.waiting} events were not published",
                    hint="they are in events.bin of the run folder",
                )
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
