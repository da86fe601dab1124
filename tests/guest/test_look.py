# SPDX-License-Identifier: GPL-2.0-or-later
"""Real boots, looked at."""

import json
from pathlib import Path

import pytest

from tests.guest.program import cvmlab


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
    assert faults[0]["function"].startswith("iowrite16+")

    text = html.read_text()
    assert "net0-pci" in text
    assert "<code>iowrite16</code>" in text
    assert not Path(done.result.run_dir or "/nonexistent").exists()
