# SPDX-License-Identifier: GPL-2.0-or-later
"""A real mosquitto, and somebody who listens to it and misses nothing."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt

from tests.tools import installed


DEADLINE_S = 20.0
USER, PASSWORD = "lab", "swordfish"


class Mosquitto:
    """A broker on a free port of loopback.  It keeps what it promised over a restart."""

    def __init__(self, folder: Path, *, password: bool = False, tls: bool = False) -> None:
        self._program = installed.require("mosquitto", "mosquitto")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.ca = folder / "ca.pem"
        lines = [
            f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/",
            "max_queued_messages 0", "user root", f"log_dest file {folder}/log",
        ]  # fmt: skip
        lines += self._with_password() if password else ["allow_anonymous true"]
        lines += self._with_tls() if tls else []
        (folder / "conf").write_text("\n".join(lines) + "\n")

    def _with_password(self) -> list[str]:
        path = self._folder / "passwords"
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", str(path), USER, PASSWORD], check=True, timeout=20
        )
        return ["allow_anonymous false", f"password_file {path}"]

    def _with_tls(self) -> list[str]:
        key = self._folder / "key.pem"
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", str(key), "-out", str(self.ca),
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return [f"certfile {self.ca}", f"keyfile {key}", f"cafile {self.ca}"]

    async def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [self._program, "-c", str(self._folder / "conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(DEADLINE_S):
            while not _answers(self.port):
                assert self._process.poll() is None, (self._folder / "log").read_text()
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        """End it as an init system does: it saves its queues."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=DEADLINE_S)

    async def restart(self, *, away_s: float) -> None:
        self.stop()
        await asyncio.sleep(away_s)
        await self.start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def running(folder: Path, **options: bool) -> AsyncIterator[Mosquitto]:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a local folder
    broker = Mosquitto(folder, **options)
    await broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Listener:
    """Everything published under cvmlab/, kept by last part of the topic."""

    def __init__(self, port: int, **options: Any) -> None:
        self._options: dict[str, Any] = {
            "hostname": "127.0.0.1",
            "port": port,
            "timeout": 3.0,
            **options,
        }
        self.heard: dict[str, list[Any]] = {}
        self.topics: set[str] = set()
        self.retained: list[str] = []
        self.changed = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Listen with a session that the broker keeps; come back after every restart."""
        while True:
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    **self._options, identifier=f"listener-{os.getpid()}", clean_session=False
                ) as client:
                    await client.subscribe("cvmlab/#", qos=1)
                    self.ready.set()
                    async for message in client.messages:
                        self._hear(message)
            await asyncio.sleep(0.1)

    def _hear(self, message: aiomqtt.Message) -> None:
        topic = str(message.topic)
        if "/command/" in topic:  # it is not for us, and may be anything
            return
        self.topics.add(topic)
        if message.retain:
            self.retained.append(topic)
        assert isinstance(message.payload, bytes)
        self.heard.setdefault(topic.split("/", 3)[3], []).append(json.loads(message.payload))
        self.changed.set()

    async def until(self, topic: str, **values: object) -> Any:
        """Wait for a message under *topic* that has *values*; return it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for one in self.heard.get(topic, []):
                    if all(one.get(name) == value for name, value in values.items()):
                        return one
                self.changed.clear()
                await self.changed.wait()

    @property
    def faults(self) -> list[int]:
        """Numbers of the faults heard of, in order, repeated where they were repeated."""
        return [
            one["seq"] for batch in self.heard.get("event/fault", []) for one in batch["events"]
        ]


@asynccontextmanager
async def listening(port: int, **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(port, **options)
    task = asyncio.create_task(listener.run())
    try:
        await asyncio.wait_for(listener.ready.wait(), DEADLINE_S)
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
