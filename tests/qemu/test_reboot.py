# SPDX-License-Identifier: GPL-2.0-or-later
"""A reboot is a fresh launch, by whomever it is asked for; only the counters go on."""

import os
import secrets
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind, Phase
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import EDU_BUFFER, BareMachine, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected"]
Reboot = Callable[[BareMachine], Awaitable[None]]


async def by_qmp(vm: BareMachine) -> None:
    """Press the reset button."""
    await vm.qmp.execute("system_reset")
    vm.guest.wait_hello()


async def by_guest(vm: BareMachine) -> None:
    """Have the guest reset itself."""
    vm.guest.done("reset")
    vm.guest.wait_hello()


async def while_busy(vm: BareMachine) -> None:
    """Press the button while a vCPU writes to memory."""
    vm.guest.start_loop(page(32), 4)
    await by_qmp(vm)


async def while_paused(vm: BareMachine) -> None:
    """Press the button of a VM that is stopped, and let it go on."""
    await vm.qmp.execute("stop")
    await vm.qmp.execute("system_reset")
    await vm.qmp.execute("cont")
    vm.guest.wait_hello()


REBOOTS = [by_qmp, by_guest, while_busy, while_paused]


@pytest.mark.parametrize("coco", PROFILES)
@pytest.mark.parametrize("reboot", REBOOTS)
class TestFreshLaunch:
    async def test_states_storage_and_content_are_gone(
        self, boot: Boot, coco: str, reboot: Reboot
    ) -> None:
        async with boot(coco=coco) as vm:
            fresh = vm.table.counts()
            secret = secrets.token_bytes(32)
            vm.guest.write_bytes(page(0), secret)
            vm.guest.run("touch", page(1), 8)
            await vm.convert("shared", page(2), page(3))
            vm.guest.write_bytes(page(2), secret)
            await vm.change("poison", page(4))
            assert secret in whole_files(vm)
            await reboot(vm)
            assert vm.table.counts() == fresh
            assert vm.states(*(page(i) for i in range(9))) == [PageState.PENDING] * 9
            assert secret not in whole_files(vm)
            if coco == "sw-protected":
                vm.assert_storage()
            # A poisoned page would be a fault, an old one its content.
            assert [vm.guest.value("read", page(i)) for i in range(9)] == [0] * 9

    async def test_phases_begin_again_and_counters_go_on(
        self, boot: Boot, coco: str, reboot: Reboot
    ) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.run("touch", page(0), 8)
            await vm.convert("shared", page(0))
            vm.records()
            before = await vm.counters()
            await reboot(vm)
            after = await vm.counters()
            assert all(after[name] >= count for name, count in before.items())
            assert after["to-shared"] == before["to-shared"] == 1
            assert after["accepted"] > before["accepted"]
            assert after["loaded"] > before["loaded"] or before["loaded"] == 0
            records = vm.records()
            resets = np.flatnonzero(records["kind"] == Kind.RESET)
            # SeaBIOS, found in memory, resets once more on its own.
            assert after["resets"] == len(resets) >= 1
            last = records[resets[-1] :]
            phases = last["flags"][last["kind"] == Kind.PHASE].tolist()
            assert phases == [Phase.LAUNCH, Phase.FIRMWARE, Phase.KERNEL]
            assert records["kind"].tolist().count(Kind.HOST_FAULT) == 0
            assert (await vm.info())["phase"] == "kernel"

    async def test_memory_is_closed_again(self, boot: Boot, coco: str, reboot: Reboot) -> None:
        async with boot(coco=coco) as vm:
            await vm.convert("shared", page(0), page(1))
            vm.guest.write_bytes(page(0), b"\x11" * 32)
            assert dma_copy(vm) == b"\x11" * 32
            await reboot(vm)
            vm.guest.write_bytes(page(0), b"\x22" * 32)
            await vm.convert("shared", page(1))
            vm.guest.write_bytes(page(1), b"\xff" * 32)
            await vm.events()
            assert dma_copy(vm) == bytes(32)
            (fault,) = [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]
            assert (fault.gpa, fault.before) == (page(0), PageState.PRIVATE)


def dma_copy(vm: BareMachine) -> bytes:
    """Have a device copy 32 bytes of page 0 to page 1; return what arrived."""
    vm.guest.done("edu-dma", page(0), EDU_BUFFER, 32)
    vm.guest.done("edu-dma", EDU_BUFFER, page(1), 32)
    return vm.guest.read_bytes(page(1), 32)


def whole_files(vm: BareMachine) -> bytes:
    """Return the contents of all memory files."""
    fds = vm.files.fds
    return b"".join(
        os.pread(fd, vm.spec.memory_bytes, 0) for fd in (fds.private, fds.shared) if fd is not None
    )


@pytest.mark.parametrize("coco", PROFILES)
async def test_many_reboots_in_a_row_with_conversions_between(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        fresh = vm.table.counts()
        resets = 0
        for number in range(5):
            await vm.convert("shared", page(number), count=8)
            await by_qmp(vm)
            assert vm.table.counts() == fresh
            assert (await vm.counters())["resets"] > resets
            resets = (await vm.counters())["resets"]
        assert vm.table.pages == vm.spec.memory_bytes // PAGE_SIZE
