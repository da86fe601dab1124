# SPDX-License-Identifier: GPL-2.0-or-later
"""Real boots, looked at."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from cvmlab.memory.records import Phase
from cvmlab.report.top.app import Top
from cvmlab.report.top.view_source import LiveSource
from cvmlab.vm.attached import attach
from tests.guest.program import cvmlab, start, wait_for_run


pytestmark = pytest.mark.guest


def test_a_boot_leaves_trace_and_report(tmp_path: Path) -> None:
    trace, html = tmp_path / "out.json", tmp_path / "out.html"
    done = cvmlab(
        "boot", "debian-devices", "--net", "user", "--trace", str(trace), "--html", str(html),
        "--exec", "ip link set eth0 up; sleep 1", "--json", "-", "--progress", "none",
    )  # fmt: skip
    assert done.code == 0, done.err

    events = json.loads(trace.read_text())["traceEvents"]
    phases = [one["name"] for one in events if one.get("cat") == "phase"]
    assert phases[-3:] == ["firmware", "kernel", "user"]
    pages = sum(one["args"]["pages"] for one in events if one["name"] == "accept")
    assert pages == done.result.counters.accepted
    faults = [one["args"] for one in events if one["name"] == "host-fault"]
    assert {fault["device"] for fault in faults} == {"net0-pci"}
    assert faults[0]["function"].endswith(" [virtio_net]")

    text = html.read_text()
    assert "net0-pci" in text
    assert re.search(r"<code>virtnet_\w+ \[virtio_net\]</code>", text)
    assert not Path(done.result.run_dir or "/nonexistent").exists()


async def test_a_running_guest_is_watched_and_its_memory_converted(tmp_path: Path) -> None:
    with start("boot", "--name", "watched", "--exec", "sleep 1000", "--progress", "none"):
        socket = wait_for_run("watched").path / "qmp.sock"
        while not socket.exists():  # noqa: ASYNC110 - nobody tells; pytest has the deadline
            await asyncio.sleep(0.05)
        async with attach("watched") as vm:
            app = Top(LiveSource(vm), folder=tmp_path)
            async with app.run_test(size=(80, 24), notifications=True) as pilot:
                while vm.pages.phase is not Phase.USER:
                    await pilot.pause(0.2)
                assert LiveSource(vm).title == "watched  generic  1G"
                before = vm.pages.counts()
                await pilot.press("end", "v", "left", "s", "y")
                while vm.pages.counts().shared == before.shared:
                    await pilot.pause(0.1)
                await pilot.press("space")
                while (await vm.command("query-status"))["running"]:
                    await pilot.pause(0.1)
                await pilot.press("q")
            await vm.stop()
