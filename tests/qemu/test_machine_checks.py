# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad pages where an exception is delivered, and exceptions where a bad page is met."""

import os

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu import tdx
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.test_ending import told


pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]

PROFILES = ["generic", "sw-protected", "tdx", "sev-es", "sev-snp"]
VECTOR_PF, VECTOR_MC = 14, 18
STACK_PAGES = 4
LARGE_PAGE = 2 << 20
UNMAPPED = 64 << 20  # no RAM is there, and the guest has not been there
MSR_APIC_BASE, X2APIC_ENABLE = 0x1B, 1 << 10
X2APIC_LVT_TIMER, X2APIC_INITIAL_COUNT, X2APIC_DIVIDE = 0x832, 0x838, 0x83E
PERIODIC, DIVIDE_BY_1, VECTOR = 1 << 17, 0b1011, 0x80
PERIOD = 30_000  # nanoseconds
CHECKS = 30_000  # without the guard, the guest ends long before


def unmap(vm: BareMachine) -> None:
    """Have a touch of UNMAPPED raise #PF.  The guest maps 2 MiB by each entry."""
    vm.guest.done("write", vm.gpa_of("page_directories") + 8 * (UNMAPPED // LARGE_PAGE), 0)
    assert vm.guest.fault("read", UNMAPPED).vector == VECTOR_PF


def place_of(vm: BareMachine, what: str) -> tuple[int, int]:
    """Return the first page and the number of pages that the delivery of an exception needs."""
    if what == "stack":
        return vm.gpa_of("boot_stack_end") - STACK_PAGES * PAGE_SIZE, STACK_PAGES
    return vm.gpa_of("idt") & -PAGE_SIZE, 1


@pytest.mark.fault("Q13")
@pytest.mark.parametrize("coco", PROFILES)
@pytest.mark.parametrize("what", ["stack", "table of handlers"])
@pytest.mark.parametrize("by", ["exception", "interrupt"])
async def test_a_bad_page_where_an_exception_is_delivered_ends_the_guest_by_name(
    boot: Boot, coco: str, what: str, by: str
) -> None:
    """QEMU answers meanwhile: without a way out, the vCPU would deliver the exception for ever."""
    async with boot(coco=coco, allow_reboot=False) as vm:
        unmap(vm)
        if by == "exception":
            vm.guest.start_loop(UNMAPPED, 1)
        first, pages = place_of(vm, what)
        async with told(vm) as stop:
            await vm.change("poison", first, count=pages)
            if by == "interrupt":
                vm.guest.start("ping")  # it sleeps until a byte arrives
        assert stop["reason"] == "triple-fault"
        assert "could not take" in stop["text"]
        bad = int(stop["text"].partition("page at ")[2].partition(",")[0], 16)
        assert first <= bad < first + pages * PAGE_SIZE


@pytest.mark.fault("Q13")
async def test_the_reason_is_forgotten_with_the_guest(boot: Boot) -> None:
    async with boot(coco="generic") as vm:
        first, pages = place_of(vm, "stack")
        with vm.qmp.events() as stream:
            await vm.change("poison", first, count=pages)
            vm.guest.start("ping")
            async for event in stream:
                if event.name == "RESET":
                    break
        vm.guest.wait_hello()
        assert "stopped" not in await vm.info()
        assert vm.state(first) is not PageState.POISONED


@pytest.mark.fault("Q13")
async def test_an_exception_is_delivered_as_itself_once_the_host_has_helped(boot: Boot) -> None:
    """The first attempt has left no trace: two page faults in a row would be a double fault."""
    async with boot(coco="tdx") as vm:
        tdx.become_td(vm)
        unmap(vm)
        vm.guest.start_loop(UNMAPPED, 1)
        (first, _) = place_of(vm, "table of handlers")
        content = vm.in_file(vm.files.fds.private, first, PAGE_SIZE)
        async with told(vm) as stop:
            await vm.change("discard", first)
        assert stop["reason"] == "guest-fault"
        await vm.change("accept", first)
        os.pwrite(vm.files.fds.private, content, first)
        vm.records()
        await vm.qmp.execute("cont")
        result = vm.guest.stop_loop()
        assert result.faults > 0
        assert not any(vm.records()["kind"] == Kind.GUEST_FAULT)


@pytest.mark.fault("Q14")
async def test_an_interrupt_between_touch_and_machine_check_makes_no_second_one(
    boot: Boot,
) -> None:
    """A second one before the first is done would reset the machine."""
    async with boot(coco="generic", allow_reboot=False) as vm:
        vm.is_intact = False  # there are more faults than the ring holds
        base = vm.guest.value("rdmsr", MSR_APIC_BASE)
        vm.guest.done("wrmsr", MSR_APIC_BASE, base | X2APIC_ENABLE)
        vm.guest.done("wrmsr", X2APIC_DIVIDE, DIVIDE_BY_1)
        vm.guest.done("wrmsr", X2APIC_LVT_TIMER, PERIODIC | VECTOR)
        await vm.change("poison", page(0))
        vm.guest.done("wrmsr", X2APIC_INITIAL_COUNT, PERIOD)
        vm.guest.start_loop(page(0), 1)
        while (await vm.counters())["guest-faults"] < CHECKS:
            assert (await vm.qmp.execute("query-status"))["running"]
            vm.records()
        vm.guest.stop_loop()
        assert vm.guest.fault("read", page(0)).vector == VECTOR_MC
