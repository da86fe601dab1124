# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest CPU meets when a page is not what its C-bit says: #VC, or a conversion it did not ask for."""

import pytest

from cvmlab.memory.records import Actor, Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import EDU_BUFFER, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    NOT_VALIDATED,
    SHARED_MAP,
    SNP,
    TO_SHARED,
    VECTOR_VC,
    msr,
    psc_request,
    pvalidate,
    to_private,
    to_shared,
    wait_stop,
)  # fmt: skip


pytestmark = pytest.mark.qemu

PRIVATE, PENDING, SHARED = PageState.PRIVATE, PageState.PENDING, PageState.SHARED
SECRET = 0x5EC2_E75E_C2E7_0001


@pytest.mark.parametrize(("command", "writes"), [(("read",), False), (("write", 1), True)])
async def test_touching_a_page_that_is_not_validated(
    boot: Boot, command: tuple[str, int], writes: bool
) -> None:
    name, *value = command
    async with boot(**SNP) as vm:
        to_shared(vm.guest, page(0))
        to_private(vm.guest, page(0))
        await vm.events()
        fault = vm.guest.fault(name, page(0) + 8, *value)
        assert (fault.vector, fault.error) == (VECTOR_VC, NOT_VALIDATED)
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.write) == (Kind.GUEST_FAULT, page(0), writes)
        assert event.rip == ("probe_write64" if writes else "probe_read64")
        assert pvalidate(vm.guest, page(0)) == (0, False)
        vm.guest.done("write", page(0) + 8, 1)


async def test_fetching_from_a_page_that_is_not_validated(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        assert vm.guest.value("exec", page(0)) == 0x600D
        pvalidate(vm.guest, page(0), valid=False)
        fault = vm.guest.fault("call", page(0))
        assert (fault.vector, fault.error, fault.rip) == (VECTOR_VC, NOT_VALIDATED, page(0))


async def test_a_page_the_host_takes_away(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), SECRET)
        await vm.change("discard", page(0))
        assert vm.guest.fault("read", page(0)).error == NOT_VALIDATED
        assert pvalidate(vm.guest, page(0)) == (0, False)
        assert vm.guest.value("read", page(0)) != SECRET


async def test_a_page_the_host_converts_twice(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), SECRET)
        await vm.convert("shared", page(0))
        await vm.convert("private", page(0))
        assert vm.guest.fault("read", page(0)).error == NOT_VALIDATED


async def test_touching_a_private_page_as_shared_converts_it(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("map-shared", 0)
        vm.guest.done("write", page(0), SECRET)
        await vm.events()
        assert vm.guest.value("read", SHARED_MAP + page(0)) != SECRET
        events = [e for e in await vm.events() if e.kind is Kind.CONVERT]
        assert [(e.gpa, e.before, e.after, e.rip) for e in events] == [
            (page(0), PRIVATE, SHARED, "probe_read64")
        ]
        assert vm.state(page(0)) is SHARED
        vm.guest.done("write", SHARED_MAP + page(0), 0xBEEF)
        assert vm.guest.value("read", SHARED_MAP + page(0)) == 0xBEEF
        vm.assert_storage()


async def test_touching_a_shared_page_as_private_converts_it_and_faults(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        to_shared(vm.guest, page(0))
        vm.guest.done("write", SHARED_MAP + page(0), 0xBEEF)
        await vm.events()
        fault = vm.guest.fault("read", page(0))
        assert (fault.vector, fault.error) == (VECTOR_VC, NOT_VALIDATED)
        assert vm.state(page(0)) is PENDING
        assert pvalidate(vm.guest, page(0)) == (0, False)
        assert vm.guest.value("read", page(0)) != 0xBEEF


@pytest.mark.parametrize("coco", ["sev", "sev-es"])
async def test_without_snp_the_c_bit_alone_decides(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        vm.guest.done("map-shared", 0)
        vm.guest.done("write", page(0), SECRET)
        assert vm.guest.value("read", SHARED_MAP + page(0)) != SECRET
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        assert vm.guest.value("read", SHARED_MAP + page(1)) == 0xBEEF
        assert vm.files.fds.shared is not None
        assert vm.in_file(vm.files.fds.shared, page(1), 2) == b"\xef\xbe"


@pytest.mark.parametrize("coco", ["sev", "sev-es", "sev-snp"])
async def test_a_device_meets_shared_pages_only(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        vm.guest.done("map-shared", 0)
        vm.guest.done("write", page(0), SECRET)
        if coco == "sev-snp":
            to_shared(vm.guest, page(1))
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        await vm.events()
        vm.guest.done("edu-dma", page(0), EDU_BUFFER, 8)
        (event,) = [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]
        assert (event.actor, event.gpa, event.write) == (Actor.DEVICE, page(0), False)
        vm.guest.done("edu-dma", EDU_BUFFER, page(1), 8)
        assert vm.guest.value("read", SHARED_MAP + page(1)) == 0
        assert vm.guest.value("read", page(0)) == SECRET
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        vm.guest.done("edu-dma", page(1), EDU_BUFFER, 8)
        vm.guest.done("write", SHARED_MAP + page(1), 0)
        vm.guest.done("edu-dma", EDU_BUFFER, page(1), 8)
        assert vm.guest.value("read", SHARED_MAP + page(1)) == 0xBEEF
        assert [e for e in await vm.events() if e.kind is Kind.HOST_FAULT] == []


async def test_strict_stops_at_a_conversion_that_nobody_asked_for(boot: Boot) -> None:
    async with boot(**SNP, guest_options=("c-bit-mismatch=stop",)) as vm:
        vm.guest.done("map-shared", 0)
        vm.guest.done("write", page(0), SECRET)
        assert msr(vm.guest, psc_request(page(1), TO_SHARED)) >> 32 == 0
        await wait_stop(vm, "read", SHARED_MAP + page(0))
        assert vm.state(page(0)) is PRIVATE
