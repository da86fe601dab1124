# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing to a real mosquitto: what was promised arrives, whatever the broker does."""

import asyncio
import json
import resource
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.memory.records import Kind
from cvmlab.publish.mqtt import Broker, publishing, require_reachable, topic_base
from cvmlab.publish.telemetry import state_message
from tests.fakes import journals as make
from tests.fakes.watched import FakeWatched
from tests.tools.broker import PASSWORD, USER, Mosquitto, listening, running


def at(broker: Mosquitto, **options: object) -> Broker:
    return Broker(host="127.0.0.1", port=broker.port, **options)  # type: ignore[arg-type]


async def test_topics_and_what_is_retained(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    vm.write(make.small())
    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:
        async with publishing(vm, at(broker)):
            await listener.until("state", state="running")
            await listener.until("event/memory")
        ended = await listener.until("state", state="ended")
        assert ended["emulated"] is True
        base = topic_base("lab")
        assert listener.topics == {
            f"{base}/{name}"
            for name in ("state", "pages", "event/fault", "event/phase", "event/memory")
        }
        assert [one["phase"] for one in listener.heard["event/phase"][0]["events"]] == [
            "firmware", "kernel", "user",
        ]  # fmt: skip
        assert len(listener.faults) == 2
        memory = listener.heard["event/memory"][0]
        assert (memory["accepted"], memory["to_shared"], memory["to_private"]) == (250, 12, 8)
        async with aiomqtt.Client("127.0.0.1", broker.port) as late:
            await late.subscribe("cvmlab/#")
            kept = {}
            async with asyncio.timeout(10):
                async for message in late.messages:
                    assert isinstance(message.payload, bytes)
                    kept[str(message.topic)] = json.loads(message.payload)
                    if len(kept) == 2:
                        break
        assert kept[f"{base}/state"]["state"] == "ended"
        assert kept[f"{base}/pages"]["pages"]["private"] == 28


async def test_the_last_will_says_lost(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:
        # A connection that breaks without a farewell: what a killed controller leaves.

        client = at(broker).client(state_message("lost"), topic_base(vm.name))
        await client.__aenter__()
        sock = client._client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        await listener.until("state", state="lost")
        with suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


async def test_three_restarts_under_load_lose_nothing_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """300 000 events, 100 000 a second: the file is the queue, so memory does not grow."""
    vm = FakeWatched(tmp_path / "run")
    journal = make.large(300_000)
    wanted = journal["seq"][journal["kind"] == Kind.HOST_FAULT].tolist()
    assert len(wanted) == 3000

    async def load() -> None:
        for part in np.array_split(journal, 60):
            vm.write(part)
            await asyncio.sleep(0.05)

    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said: list[str] = []
        async with publishing(vm, at(broker), farewell_s=60, say=said.append) as publisher:
            writer = asyncio.create_task(load())
            for _ in range(3):
                await asyncio.sleep(0.5)
                await broker.restart(away_s=0.3)
            await writer
        await listener.until("state", state="ended")
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert publisher.connections >= 4
        # Once for each time, not once for each try; and nothing in words of a library.
        away, back = (
            "the broker is lost: reconnecting; messages are kept until then",
            "the broker is back",
        )
        assert said == [away, back] * (publisher.connections - 1)
        assert [record for record in caplog.records if record.name != "asyncio"] == []
        assert sorted(set(listener.faults)) == wanted
        assert grown_kib < 64 << 10


async def test_a_broker_that_stays_away_is_said_and_what_was_kept(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:

        async def abandoned() -> None:
            async with publishing(vm, at(broker), farewell_s=0.5):
                await listener.until("state", state="running")
                broker.stop()
                vm.write(make.small())

        with pytest.raises(ConfigError, match="259 events were not published"):
            await abandoned()


# paho forgets its socket when the broker's certificate is refused.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
async def test_password_and_tls(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    vm.write(make.small())
    async with running(tmp_path / "broker", password=True, tls=True) as broker:
        good = at(broker, user=USER, password=PASSWORD, tls=True, ca=broker.ca)
        secure = aiomqtt.TLSParameters(ca_certs=str(broker.ca))
        await require_reachable(good)
        async with (
            listening(broker.port, username=USER, password=PASSWORD, tls_params=secure) as listener,
            publishing(vm, good),
        ):
            await listener.until("state", state="running")
            await listener.until("event/fault")
        for bad in (
            at(broker, user=USER, password="wrong", tls=True, ca=broker.ca),
            at(broker, tls=True, ca=broker.ca),
            at(broker, user=USER, password=PASSWORD, tls=True),  # nobody vouches for it
        ):
            with pytest.raises(ConfigError, match="cannot log in to the MQTT broker"):
                await require_reachable(bad)


async def test_commands_are_obeyed_when_asked_for_and_authenticated(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    account: dict[str, Any] = {"username": USER, "password": PASSWORD}
    async with running(tmp_path / "broker", password=True) as broker:
        ours = at(broker, user=USER, password=PASSWORD, commands=True)
        base = topic_base("lab") + "/command"
        async with (
            listening(broker.port, **account) as listener,
            aiomqtt.Client("127.0.0.1", broker.port, **account) as operator,
        ):
            # Left behind by somebody: it must not hit a VM that starts later.
            await operator.publish(f"{base}/stop", b"{}", qos=1, retain=True)
            async with publishing(vm, ours):
                await listener.until("state", state="running")
                convert = {"id": 1, "ranges": ["1M+8K"], "to": "shared"}
                for number in range(50):  # until it has subscribed
                    await operator.publish(f"{base}/convert", json.dumps(convert), qos=1)
                    if vm.calls:
                        break
                    await asyncio.sleep(0.1 * (number > 0))
                assert (await listener.until("reply", id=1))["pages"] == 2
                assert vm.calls[0] == ("convert", "0x100000+8K", "shared")
                for payload, error in (
                    (b"{", "not JSON"), (b"[]", "a command is a JSON object"),
                    (b'{"id": 2, "ranges": "x", "to": "shared"}', 'convert needs "ranges"'),
                    (b'{"id": 3, "ranges": ["1M+8K"], "to": "public"}', "there is no target"),
                ):  # fmt: skip
                    listener.heard.pop("reply", None)
                    await operator.publish(f"{base}/convert", payload, qos=1)
                    assert (await listener.until("reply", ok=False))["error"].startswith(error)
                await operator.publish(f"{base}/pause", b'{"id": 9}', qos=1)
                await listener.until("reply", id=9, ok=True)
        assert vm.calls[-1] == ("pause",)
        assert ("stop",) not in vm.calls


async def test_commands_are_not_listened_to_unless_asked_for(tmp_path: Path) -> None:
    vm = FakeWatched(tmp_path / "run")
    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:
        async with publishing(vm, at(broker)):
            await listener.until("state", state="running")
            async with aiomqtt.Client("127.0.0.1", broker.port) as operator:
                await operator.publish(topic_base("lab") + "/command/stop", b"{}", qos=1)
            vm.write(make.small())
            await listener.until("event/fault")
        assert vm.calls == []
        assert "reply" not in listener.heard
