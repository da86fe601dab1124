# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of an SNP launch under SeaBIOS: what the guest's boot parameters say may be anything."""

import asyncio
import socket
from pathlib import Path

import pytest

from cvmlab.memory.states import PageState
from tests.qemu import tiny_kernel
from tests.qemu.bare_machine import MEMORY_BYTES, BareMachine
from tests.qemu.conftest import Boot


pytestmark = [pytest.mark.qemu, pytest.mark.fault("Q5")]

TIMEOUT_S = 20
RAM, ACPI = 1, 3
TOP = MEMORY_BYTES // 2  # below SeaBIOS's own tables
MEMORY = (0x100000, TOP - 0x100000, RAM)
NO_ROOM = "no room for the guest's secrets"

HOSTILE = {
    "nothing": [],
    "no memory there": [(0x100000, 0xD0000000, RAM)],
    "devices": [(0xFEB00000, 0x100000, RAM)],
    "beyond 4 GiB": [(0x100000000, 0x100000, RAM)],
    "wraps": [(0xFFFFFFFFFFFFF000, 0x2000, RAM)],
    "wraps to the start": [(0x2000, 0xFFFFFFFFFFFFF000, RAM)],
    "empty": [(0x200000, 0, RAM)],
    "odd": [(0x200001, 0x1FFF, RAM)],
    "in the hole": [(0xA0000, 0x60000, RAM)],
    "full": [(0x100000 + 0x1000 * n, 0x1000, RAM) for n in range(127)],
    "overfull": [(0x100000 + 0x1000 * n, 0x1000, RAM) for n in range(255)],
}


async def runs(vm: BareMachine, agent: socket.socket) -> None:
    """Let the kernel run until it tells that it has read SEV_STATUS."""
    await vm.qmp.execute("cont")
    agent.setblocking(False)
    async with asyncio.timeout(TIMEOUT_S):
        assert await asyncio.get_running_loop().sock_recv(agent, 1) == tiny_kernel.SAYS


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_memory_map_that_cannot_be(boot: Boot, tmp_path: Path, name: str) -> None:
    params = tiny_kernel.boot_parameters(HOSTILE[name])
    kernel = tiny_kernel.write(tmp_path / "kernel", params)
    async with boot(coco="sev-snp", kernel=kernel, cont=False) as vm:
        await runs(vm, vm.guest.port)
        assert NO_ROOM in (tmp_path / "qemu.log").read_text()


@pytest.mark.parametrize("initrd", [0, TOP - 0x100000])
async def test_memory_that_the_host_has_shared(boot: Boot, tmp_path: Path, initrd: int) -> None:
    params = tiny_kernel.boot_parameters([MEMORY], initrd)
    kernel = tiny_kernel.write(tmp_path / "kernel", params)
    async with boot(coco="sev-snp", kernel=kernel, cont=False) as vm:
        await vm.convert("shared", (initrd or TOP) - 0x10000, count=16)
        await runs(vm, vm.guest.port)
        assert NO_ROOM in (tmp_path / "qemu.log").read_text()


async def test_control_a_good_map_gets_its_secrets(boot: Boot, tmp_path: Path) -> None:
    kernel = tiny_kernel.write(tmp_path / "kernel", tiny_kernel.boot_parameters([MEMORY]))
    async with boot(coco="sev-snp", kernel=kernel, cont=False) as vm:
        await runs(vm, vm.guest.port)
        assert NO_ROOM not in (tmp_path / "qemu.log").read_text()
        assert vm.state(TOP - 0x3000) is PageState.PRIVATE
        params = vm.in_file(vm.files.fds.private, tiny_kernel.PARAMS, 4096)
        assert tiny_kernel.entry(params, 1) == (TOP - 0x3000, 0x3000, ACPI)
