# SPDX-License-Identifier: GPL-2.0-or-later
"""Prometheus metrics of the VMs that run, as a scraper gets them."""

import asyncio
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.publish.metrics import Reading, Readings, serving
from cvmlab.publish.serving import serve_all
from cvmlab.publish.vm_feed import Feed
from cvmlab.vm.vm import Vm
from tests.fakes.plan import Plan
from tests.fakes.watched import FakeWatched


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text: str = answer.read().decode()
        return text


def test_a_reading_is_text_for_prometheus(tmp_path: Path) -> None:
    readings = Readings()
    with Feed(FakeWatched(tmp_path)) as feed:
        readings.now = {"lab": Reading.of(feed)}
    with serving(readings, 0) as port:
        text = scraped(port)
    assert 'cvmlab_pages{state="private",vm="lab"} 28.0' in text
    assert 'cvmlab_phase{vm="lab"} 3.0' in text
    assert 'cvmlab_events_total{kind="host_faults",vm="lab"} 7.0' in text
    assert "# TYPE cvmlab_events_total counter" in text or "# TYPE cvmlab_events counter" in text


def test_it_listens_on_loopback_only() -> None:
    with serving(Readings(), 0) as port, socket.socket() as probe:
        probe.bind(("127.0.0.2", port))  # would be taken, if it listened everywhere


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigError, match="cannot be served"),
            serving(Readings(), taken.getsockname()[1]),
        ):
            pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_vms_come_and_go(tmp_path: Path, state_home: Path) -> None:
    said: list[str] = []
    server = asyncio.create_task(serve_all(None, 0, say=said.append))
    await until(lambda: bool(said))
    port = int(said[0].split(":")[2].split("/")[0])
    qemu = Plan(boot=({"phase": 1}, {"touch": [0, 10]}, {"console": "login: "})).install(
        tmp_path / "fake"
    )
    async with Vm(qemu=qemu, memory="64M", name="lab", stop_timeout_s=0.5) as vm:
        await vm.wait_for("login:")
        await until(lambda: "serving lab" in said)
        async with asyncio.timeout(20):
            while 'vm="lab"} 10.0' not in await asyncio.to_thread(scraped, port):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    await until(lambda: "lab has ended" in said)
    assert 'vm="lab"' not in await asyncio.to_thread(scraped, port)
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)
