# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU that is plugged in later shows the host no more than the others do."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.hostpaths import dumped, plug_cpu


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]
PRIVATE_VIEW, SHARED_VIEW = 1 << 60, 1 << 61  # in a CPU's own address space: see cpu-view.h


@asynccontextmanager
async def with_two_cpus(boot: Boot, coco: str) -> AsyncIterator[BareMachine]:
    """Boot with one CPU and plug in another."""
    async with boot(coco=coco, extra=("-smp", "1,maxcpus=2")) as vm:
        await plug_cpu(vm)
        yield vm


async def look(vm: BareMachine, line: str, cpu: int) -> bytes:
    arguments = {"command-line": line, "cpu-index": cpu}
    return dumped(str(await vm.qmp.execute("human-monitor-command", arguments)).encode())


@pytest.mark.fault("L2")
@pytest.mark.parametrize("coco", PROFILES)
async def test_the_views_of_no_cpu_are_reached_by_the_monitor(boot: Boot, coco: str) -> None:
    secret = secrets.token_bytes(64)
    async with with_two_cpus(boot, coco) as vm:
        vm.guest.write_bytes(page(0), secret)
        for cpu in (0, 1):
            for view in (0, PRIVATE_VIEW, SHARED_VIEW):
                for way in ("xp", "x"):  # the plugged CPU waits without paging
                    said = await look(vm, f"{way} /64xb {view + page(0):#x}", cpu)
                    assert secret not in said, (way, hex(view), cpu)
        assert vm.guest.read_bytes(page(0), 64) == secret
