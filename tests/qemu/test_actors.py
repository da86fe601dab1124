# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom the journal names: devices that come and go, and the loader, which places or places not."""

import asyncio
from pathlib import Path

import pytest

from cvmlab.base.channel import Subscription
from cvmlab.memory.records import Actor, Kind
from cvmlab.vm.qmp import QmpEvent
from tests.qemu.bare_machine import EDU_DEVICE, page
from tests.qemu.conftest import Boot
from tests.qemu.plain import connect


pytestmark = pytest.mark.qemu

PORT = "pcie-root-port,id=port0,chassis=1"
DEADLINE_S = 30


async def test_a_name_stays_when_its_device_leaves(boot: Boot) -> None:
    devices = (EDU_DEVICE, PORT, "edu,id=leaving,bus=port0")
    async with boot(coco="generic", devices=devices) as vm:
        index = await vm.device_index("leaving")
        with vm.qmp.events() as events:
            await vm.qmp.execute("device_del", {"id": "leaving"})
            # This guest does not answer a request to unplug; a reset does it without asking.
            await vm.qmp.execute("system_reset")
            await deleted(events)
        vm.guest.wait_hello()
        assert await vm.device_index("leaving") == index
        await vm.qmp.execute("device_add", {"driver": "edu", "id": "coming", "bus": "port0"})
        assert await vm.device_index("coming") != index
        assert await vm.device_index("leaving") == index


async def deleted(events: Subscription[QmpEvent]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async for event in events:
            if event.name == "DEVICE_DELETED":
                return


@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
async def test_a_loader_that_reads_places_nothing(boot: Boot, tmp_path: Path, coco: str) -> None:
    """Before the first instruction, all of the host but its monitor is the loader."""
    qtest = tmp_path / "qtest"
    extra = ("-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none")
    async with boot(coco=coco, extra=extra, cont=False) as vm:
        await vm.events()
        before = vm.table.states().tobytes(), vm.files.storage_bytes()
        assert ask_qtest(qtest, f"read {page(0):#x} 32") == f"OK 0x{'00' * 32}"
        assert (vm.table.states().tobytes(), vm.files.storage_bytes()) == before
        assert await vm.events() == []
        # The control: what is written is placed.
        assert ask_qtest(qtest, f"write {page(0):#x} 4 0x11223344") == "OK"
        assert ask_qtest(qtest, f"read {page(0):#x} 4") == "OK 0x11223344"
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.actor) == (Kind.LOAD, page(0), Actor.LOADER)


def ask_qtest(path: Path, command: str) -> str:
    """Run a command of QEMU's test protocol; return the answer."""
    with connect(path) as sock:
        sock.settimeout(DEADLINE_S)
        sock.sendall(command.encode() + b"\n")
        with sock.makefile() as answers:
            return answers.readline().rstrip("\n")
