# SPDX-License-Identifier: GPL-2.0-or-later
"""Secure EPT and #VE: pending pages, wrong addresses, instructions that leave a TD."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare import Fault
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.tdx import (
    CPUID,
    CPUIDVE_SET,
    EPT_VIOLATION,
    NO_VALID_VE_INFO,
    RTMR_EXTEND,
    SHARED,
    SHARED_MAP,
    SUCCESS,
    VECTOR_DF,
    VECTOR_VE,
    VEINFO_GET,
    accept,
    map_gpa,
    tdcall,
    vmcall,
)  # fmt: skip


pytestmark = pytest.mark.qemu

VE_ON = ("sept-ve-disable=off",)
READ, WRITE, GLA_VALID = 1, 2, 1 << 7


def make_pending(vm: BareMachine, gpa: int) -> None:
    """Take a page from the guest by converting it twice."""
    vm.guest.done("map-shared", 47)
    assert map_gpa(vm.guest, SHARED | gpa, PAGE_SIZE) == SUCCESS
    assert map_gpa(vm.guest, gpa, PAGE_SIZE) == SUCCESS
    assert vm.state(gpa) is PageState.PENDING


def ve_info(vm: BareMachine) -> tuple[int, int, int, int, int]:
    """Return what TDG.VP.VEINFO.GET says: reason, qualification, GLA, GPA, length."""
    info = tdcall(vm.guest, VEINFO_GET)
    assert info.rax == SUCCESS
    return (info.rcx, info.rdx, info.r8, info.r9, info.r10)


@pytest.mark.parametrize(("command", "kind"), [(("read",), READ), (("write", 1), WRITE)])
async def test_touching_a_pending_page(boot: Boot, command: tuple[str, int], kind: int) -> None:
    name, *value = command
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        make_pending(vm, page(0))
        await vm.events()
        fault = vm.guest.fault(name, page(0) + 8, *value)
        assert (fault.vector, fault.error) == (VECTOR_VE, 0)
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.write) == (Kind.GUEST_FAULT, page(0), kind == WRITE)
        assert event.rip == ("probe_read64" if kind == READ else "probe_write64")
        gla = page(0) + 8
        assert ve_info(vm) == (EPT_VIOLATION, kind | GLA_VALID, gla, gla, 0)
        assert accept(vm.guest, page(0)) == SUCCESS
        assert vm.guest.value("read", page(0) + 8) == 0


async def test_a_second_ve_before_the_first_is_read_is_a_double_fault(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        make_pending(vm, page(0))
        assert vm.guest.fault("read", page(0)).vector == VECTOR_VE
        assert vm.guest.fault("read", page(0)).vector == VECTOR_DF
        assert ve_info(vm)[0] == EPT_VIOLATION
        assert tdcall(vm.guest, VEINFO_GET).rax == NO_VALID_VE_INFO
        assert vm.guest.fault("read", page(0)).vector == VECTOR_VE


async def test_the_shared_address_of_a_private_page(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        make_pending(vm, page(0))
        vm.guest.done("write", page(1), 0x5EC)
        assert vm.guest.fault("read", SHARED_MAP + page(1)).vector == VECTOR_VE
        assert ve_info(vm)[3] == SHARED | page(1)


async def test_the_private_address_of_a_shared_page(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        map_gpa(vm.guest, SHARED | page(0), PAGE_SIZE)
        assert vm.guest.fault("read", page(0)).vector == VECTOR_VE
        assert ve_info(vm)[3] == page(0)


async def test_a_leaf_that_touches_a_pending_page(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        make_pending(vm, page(0))
        fault = vm.guest.tdcall(RTMR_EXTEND, rcx=page(0))
        assert isinstance(fault, Fault)
        assert (fault.vector, ve_info(vm)[3]) == (VECTOR_VE, page(0))


async def test_a_page_the_host_takes_away(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        tdcall(vm.guest, CPUIDVE_SET)
        vm.guest.done("write", page(0), 0x5EC)
        await vm.change("discard", page(0))
        assert vm.guest.fault("read", page(0)).vector == VECTOR_VE
        assert ve_info(vm)[3] == page(0)


async def test_with_ve_disabled_the_guest_stops_and_can_go_on(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        make_pending(vm, page(0))
        await vm.events()
        with vm.qmp.events() as stream:
            vm.guest.start("read", page(0))
            while (await anext(stream)).name != "STOP":
                pass
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.rip) == (Kind.GUEST_FAULT, page(0), "probe_read64")
        await vm.change("accept", page(0))
        await vm.qmp.execute("cont")
        assert vm.guest.finish() == (0,)


async def test_cpuid_on_demand(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        native = vm.guest.run("cpuid", 1, 0)
        assert isinstance(native, tuple)
        assert tdcall(vm.guest, CPUIDVE_SET, rcx=1).rax == SUCCESS
        fault = vm.guest.fault("cpuid", 1, 0)
        assert (fault.vector, ve_info(vm)) == (VECTOR_VE, (CPUID, 0, 0, 0, 2))
        assert vmcall(vm.guest, CPUID, r12=1).r12 == native[0]
        tdcall(vm.guest, CPUIDVE_SET, rcx=2)
        assert vm.guest.run("cpuid", 1, 0) == native
