# SPDX-License-Identifier: GPL-2.0-or-later
"""A real boot published to a real broker, which is restarted three times meanwhile."""

import asyncio
import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind, Phase
from cvmlab.vm.attached import attach
from tests.guest.program import finish, start
from tests.tools.broker import listening, running


pytestmark = pytest.mark.guest

PAGES = 200
ROUNDS = 4


async def test_what_a_boot_promised_arrives_over_three_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with running(tmp_path / "broker") as broker, listening(broker.port) as listener:
        with start(
            "boot", "--name", "loud", "--exec", "sleep 1000", "--run-dir", str(folder),
            "--mqtt", f"127.0.0.1:{broker.port}", "--json", "-", "--progress", "none",
        ) as process:  # fmt: skip
            await asyncio.to_thread(wait_for_socket, folder)
            async with attach(f"{folder}/") as vm:
                while vm.pages.phase is not Phase.USER:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.2)
                await listener.until("state", state="running")
                private = next(
                    run.range for run in vm.pages.runs()
                    if run.state.word == "private" and run.range.size > ROUNDS * PAGES * PAGE_SIZE
                )  # fmt: skip
                for number in range(ROUNDS):
                    if number:
                        await broker.restart(away_s=0.5)
                    # The host reads private memory, is refused, and recorded.
                    for page in range(PAGES):
                        gpa = private.start + (number * PAGES + page) * PAGE_SIZE
                        with suppress(CommandRefused):
                            await vm.qmp("pmemsave", val=gpa, size=PAGE_SIZE, filename="/dev/null")
                await vm.stop()
            done = await asyncio.to_thread(finish, process)
            assert done.err.count("cvmlab:") == 0, done.err
        ended = await listener.until("state", state="ended")

    assert ended["outcome"] == done.result.outcome
    journal = JournalFile(folder / "events.bin")
    faults = journal.of_kind(Kind.HOST_FAULT)["seq"].tolist()
    assert len(faults) >= ROUNDS * PAGES
    assert sorted(set(listener.faults)) == faults
    phases = [
        event["phase"] for batch in listener.heard["event/phase"] for event in batch["events"]
    ]
    assert set(phases) == {"firmware", "kernel", "user"}
    assert json.loads((folder / "result.json").read_text())["outcome"] == ended["outcome"]


def wait_for_socket(folder: Path) -> None:
    """Wait until the VM in *folder* can be spoken to."""
    path = folder / "qmp.sock"
    deadline = time.monotonic() + 60
    while not path.exists() or not (folder / "vm.json").exists():
        assert time.monotonic() < deadline, f"no {path}"
        signal.sigtimedwait((), 0.1)
