# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver that gives a device an address with the S-bit or C-bit: nothing is there, and it is told."""

import pytest

from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import EDU, EDU_BUFFER, BareMachine, Event, page
from tests.qemu.conftest import Boot
from tests.qemu.tdx import become_td


pytestmark = [pytest.mark.qemu, pytest.mark.fault("L7")]

BITS = {"tdx": 47, "sev": 51, "sev-es": 51, "sev-snp": 51}
WIDE_EDU = {"devices": (f"edu,id={EDU},dma_mask=0xffffffffffffffff",)}


def fault(gpa: int, state: PageState, *, write: bool, verdict: Verdict = Verdict.DENY) -> Event:
    return Event(
        Kind.HOST_FAULT, gpa, 1, Actor.DEVICE, device=EDU,
        before=state, after=state, verdict=verdict, write=write,
    )  # fmt: skip


async def faults(vm: BareMachine) -> list[Event]:
    """Return the host faults since the last call, without who executed what."""
    return [
        Event(e.kind, e.gpa, e.pages, e.actor, device=e.device, before=e.before, after=e.after,
              verdict=e.verdict, write=e.write)
        for e in await vm.events() if e.kind is Kind.HOST_FAULT
    ]  # fmt: skip


@pytest.mark.parametrize("coco", BITS)
async def test_the_device_is_named_with_the_address_it_was_given(boot: Boot, coco: str) -> None:
    bit = 1 << BITS[coco]
    async with boot(coco=coco, **WIDE_EDU) as vm:
        await vm.convert("shared", page(0))
        await vm.events()
        vm.guest.done("edu-dma", bit | page(0), EDU_BUFFER, 64)
        vm.guest.done("edu-dma", EDU_BUFFER, bit | page(0), 64)
        assert await faults(vm) == [
            fault(bit | page(0), PageState.SHARED, write=False),
            fault(bit | page(0), PageState.SHARED, write=True),
        ]
        vm.guest.done("edu-dma", bit | page(1), EDU_BUFFER, 64)
        assert await faults(vm) == [fault(bit | page(1), PageState.PENDING, write=False)]


@pytest.mark.parametrize("coco", BITS)
async def test_by_the_policy_it_reads_zeros(boot: Boot, coco: str) -> None:
    bit = 1 << BITS[coco]
    async with boot(coco=coco, on_host_access="zero", **WIDE_EDU) as vm:
        await vm.events()
        vm.guest.done("edu-dma", bit | page(1), EDU_BUFFER, 64)
        assert await faults(vm) == [
            fault(bit | page(1), PageState.PENDING, write=False, verdict=Verdict.ZERO)
        ]


@pytest.mark.parametrize("coco", BITS)
async def test_control_without_the_bit_nothing_is_told(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, **WIDE_EDU) as vm:
        if coco == "tdx":
            become_td(vm)
        await vm.convert("shared", page(0))
        await vm.events()
        vm.guest.done("edu-dma", page(0), EDU_BUFFER, 64)
        vm.guest.done("edu-dma", EDU_BUFFER, page(0), 64)
        assert await faults(vm) == []
