# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest ended, as the plugin tells it; and whose calls of the guest interface it counts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cvmlab.memory.records import Kind, Phase
from cvmlab.vm.outcome import End
from tests.qemu import snp, tdx
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot, MakeVm


pytestmark = pytest.mark.qemu

DEADLINE_S = 20
SNP = {"coco": "sev-snp"}
# VMGEXIT with a GHCB that is not registered; a request that no host has.


@asynccontextmanager
async def told(vm: BareMachine) -> AsyncIterator[dict[str, Any]]:
    """Fill what is yielded with the plugin's word on the stop that the block causes."""
    found: dict[str, Any] = {}
    with vm.qmp.events() as stream:
        yield found
        async with asyncio.timeout(DEADLINE_S):
            async for event in stream:
                if event.name == "RESTRICTED_MEMORY_STOPPED":
                    found.update(event.data["stop"])
                if event.name == "STOP":
                    break
    assert (await vm.info())["stopped"] == found


def assert_is(stop: Mapping[str, Any], vm: BareMachine, reason: str, text: str) -> None:
    assert stop["reason"] == reason
    assert text in stop["text"]
    assert stop["vcpu"] == 0
    assert vm.function(stop["pc"]).startswith(("do_", "probe_")), hex(stop["pc"])


@pytest.mark.fault("F20", "F4")
async def test_a_bad_vmgexit_is_told_before_the_stop(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        async with told(vm) as stop:
            vm.guest.start("vmgexit", page(0))
        assert_is(stop, vm, "misuse", "is not registered")


@pytest.mark.fault("F20")
async def test_a_td_that_touches_a_page_it_has_not_accepted_is_told(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=("sept-ve-disable=on",)) as vm:
        tdx.become_td(vm)
        await vm.convert("private", page(0))
        await vm.change("discard", page(0))
        async with told(vm) as stop:
            vm.guest.start("read", page(0))
        assert_is(stop, vm, "guest-fault", f"{page(0):#x}")


@pytest.mark.fault("F20")
async def test_a_td_that_accepts_a_shared_page_is_told(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        tdx.become_td(vm)
        await vm.convert("shared", page(0))
        async with told(vm) as stop:
            vm.guest.start("tdcall", tdx.PAGE_ACCEPT, page(0), *[0] * 9)
        assert_is(stop, vm, "guest-fault", "accepted the page")


@pytest.mark.fault("F20")
async def test_a_policy_that_stops_is_told_with_the_device(boot: Boot) -> None:
    async with boot(coco="generic", on_host_access="stop") as vm:
        vm.guest.done("write", page(0), 1)
        async with told(vm) as stop:
            vm.guest.start("edu-dma", page(0), 0x40000, 8)
        assert stop["reason"] == "host-access"
        assert "edu0" in stop["text"]


@pytest.mark.fault("F20")
async def test_a_fatal_error_is_told(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        async with told(vm) as stop:
            vm.guest.start("vmgexit", snp.TERMINATE | 7 << 16)
        assert_is(stop, vm, "fatal-error", "fatal error of set 0, code 0x7")


async def test_a_reason_is_forgotten_when_the_guest_runs_again(boot: Boot) -> None:
    async with boot(coco="generic", on_host_access="stop") as vm:
        vm.guest.done("write", page(0), 1)
        async with told(vm):
            vm.guest.start("edu-dma", page(0), 0x40000, 8)
        await vm.qmp.execute("cont")
        vm.guest.finish()
        assert "stopped" not in await vm.info()
        await vm.qmp.execute("stop")
        assert "stopped" not in await vm.info()  # somebody's pause has no reason


@pytest.mark.fault("V5")
async def test_a_triple_fault_is_told_from_a_reset(churning: MakeVm) -> None:
    async with churning(append="-- crash;--") as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert (outcome.end, outcome.exit_code) == (End.TRIPLE_FAULTED, 255)
    assert outcome.stop is not None
    assert outcome.stop.pc is not None
    assert outcome.stop.pc >> 63
    async with churning(append="-- reset;--") as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
    assert (outcome.end, outcome.stop) == (End.REBOOTED, None)


@pytest.mark.fault("F3")
class TestCallsOfTheGuestInterface:
    async def test_of_a_td(self, boot: Boot) -> None:
        async with boot(coco="tdx") as vm:
            assert (await vm.counters())["kernel-calls"] == 0
            tdx.tdcall(vm.guest, tdx.INFO)
            tdx.tdcall(vm.guest, 0xFFFF)  # a refused one is one, too
            counters = await vm.counters()
            assert (counters["kernel-calls"], counters["early-calls"]) == (2, 0)

    async def test_of_an_snp_guest(self, boot: Boot) -> None:
        async with boot(**SNP) as vm:
            before = (await vm.counters())["kernel-calls"]
            snp.msr(vm.guest, snp.FEATURES_REQUEST)
            vm.guest.run("pvalidate", page(0), 0, 1)
            assert (await vm.counters())["kernel-calls"] == before + 2

    async def test_of_a_plain_sev_guest_are_its_use_of_the_c_bit_once(self, boot: Boot) -> None:
        async with boot(coco="sev") as vm:
            counters = await vm.counters()
            # It reads SEV_STATUS where firmware runs, and fetches in the upper half.
            assert (counters["kernel-calls"], counters["early-calls"]) == (1, 1)
            vm.guest.run("touch", page(0), 64)
            assert (await vm.counters())["kernel-calls"] == 1

    async def test_of_a_guest_that_converts_by_hypercall(self, boot: Boot) -> None:
        async with boot(coco="sw-protected") as vm:
            vm.guest.run("vmcall", 5, 0, 0, 0, 0)  # another call of KVM
            assert (await vm.counters())["kernel-calls"] == 0
            vm.guest.run("vmcall", 12, page(0), 1, 0, 0)
            assert (await vm.counters())["kernel-calls"] == 1

    async def test_none_of_a_guest_that_knows_nothing(self, boot: Boot) -> None:
        async with boot(coco="generic") as vm:
            counters = await vm.counters()
            assert (counters["kernel-calls"], counters["early-calls"]) == (0, 0)
            assert vm.ring.phase is Phase.KERNEL


@pytest.mark.fault("F3")
@pytest.mark.parametrize("coco", ["tdx", "sev-es", "sev-snp"])
async def test_the_first_instruction_that_a_host_answers_is_journaled(
    boot: Boot, coco: str
) -> None:
    """Until it speaks its interface, the bare guest is a kernel that does not: it uses its ports."""
    async with boot(coco=coco) as vm:
        (event,) = [event for event in await vm.events() if event.kind is Kind.EXIT]
        assert (event.vcpu, event.pages) == (0, 0)
        vm.guest.run("cpuid", 0x40000000, 0)
        assert not [event for event in await vm.events() if event.kind is Kind.EXIT]


@pytest.mark.parametrize("coco", ["generic", "sev"])
async def test_where_no_host_answers_anything_nothing_is(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        vm.guest.run("cpuid", 0x40000000, 0)
        assert not [event for event in await vm.events() if event.kind is Kind.EXIT]
