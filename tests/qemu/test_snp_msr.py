# SPDX-License-Identifier: GPL-2.0-or-later
"""The GHCB MSR's protocol: every request, what it answers and does."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import MEMORY_BYTES, Event, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    AP_RESET_HOLD,
    CPUID_REQUEST,
    FEATURE_AP_CREATION,
    FEATURE_SNP,
    FEATURES_REQUEST,
    INFO_REQUEST,
    INFO_RESPONSE,
    PREFERRED_GPA,
    PSC_REQUEST,
    REGISTER_GPA,
    RUN_VMPL,
    SHARED_MAP,
    SNP,
    TERMINATE,
    TO_SHARED,
    msr,
    psc_request,
    pvalidate,
    to_private,
    to_shared,
    wait_stop,
)  # fmt: skip


pytestmark = pytest.mark.qemu

C_BIT = 51
FAILED = 1 << 63  # of a page state change
ALL_ONES = (1 << 52) - 1
PRIVATE, PENDING, SHARED = PageState.PRIVATE, PageState.PENDING, PageState.SHARED


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_information(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        answer = msr(vm.guest, INFO_REQUEST)
        assert answer & 0xFFF == INFO_RESPONSE
        assert answer >> 24 & 0xFF == C_BIT
        assert (answer >> 32 & 0xFFFF, answer >> 48) == (1, 2)


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_the_msr_says_so_before_it_is_written(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        before = vm.guest.value("rdmsr", 0xC0010130)
        assert before == msr(vm.guest, INFO_REQUEST)


@pytest.mark.parametrize(("coco", "status"), [("sev", 1), ("sev-es", 3), ("sev-snp", 7), ("generic", 0)])  # fmt: skip
async def test_what_is_active(boot: Boot, coco: str, status: int) -> None:
    async with boot(coco=coco) as vm:
        assert vm.guest.value("rdmsr", 0xC0010131) == status


@pytest.mark.parametrize(("coco", "bits"), [("sev", 0x02), ("sev-es", 0x0A), ("sev-snp", 0x1A)])
async def test_what_is_supported(boot: Boot, coco: str, bits: int) -> None:
    async with boot(coco=coco) as vm:
        answer = vm.guest.run("cpuid", 0x8000001F, 0)
        assert isinstance(answer, tuple)
        eax, ebx, _, _ = answer
        assert eax & 0x1B == bits
        assert (ebx & 0x3F, ebx >> 6 & 0x3F) == (C_BIT, 1)
        vendor = vm.guest.run("cpuid", 0, 0)
        assert isinstance(vendor, tuple)
        assert b"".join(vendor[i].to_bytes(4, "little") for i in (1, 3, 2)) == b"AuthenticAMD"


@pytest.mark.fault("F1")
@pytest.mark.parametrize("register", range(4))
async def test_cpuid(boot: Boot, register: int) -> None:
    async with boot(coco="sev-es") as vm:
        answer = msr(vm.guest, 0x8000001F << 32 | register << 30 | CPUID_REQUEST)
        native = vm.guest.run("cpuid", 0x8000001F, 0)
        assert isinstance(native, tuple)
        assert answer == native[register] << 32 | register << 30 | CPUID_REQUEST + 1


@pytest.mark.parametrize("request_", [PREFERRED_GPA, PREFERRED_GPA | page(0)])
async def test_no_ghcb_is_preferred(boot: Boot, request_: int) -> None:
    async with boot(**SNP) as vm:
        assert msr(vm.guest, request_) == ALL_ONES << 12 | PREFERRED_GPA + 1


async def test_registration_of_a_ghcb(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        assert msr(vm.guest, page(0) | REGISTER_GPA) == page(0) | REGISTER_GPA + 1


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_features(boot: Boot, coco: str) -> None:
    """KVM tells an ES guest the same."""
    async with boot(coco=coco) as vm:
        features = msr(vm.guest, FEATURES_REQUEST)
        assert features == (FEATURE_SNP | FEATURE_AP_CREATION) << 12 | FEATURES_REQUEST + 1


async def test_a_page_to_shared_and_back(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), 0x5EC)
        pvalidate(vm.guest, page(0), valid=False)
        await vm.events()
        assert msr(vm.guest, psc_request(page(0), TO_SHARED)) == PSC_REQUEST + 1
        rip = "probe_vmgexit"
        assert await vm.events() == [
            Event(Kind.CONVERT, page(0), vcpu=0, before=PENDING, after=SHARED, rip=rip)
        ]
        vm.assert_storage()
        vm.guest.done("map-shared", 0)
        vm.guest.done("write", SHARED_MAP + page(0), 0xBEEF)
        assert vm.files.fds.shared is not None
        assert vm.in_file(vm.files.fds.shared, page(0), 2) == b"\xef\xbe"
        to_private(vm.guest, page(0))
        assert vm.state(page(0)) is PENDING
        assert pvalidate(vm.guest, page(0)) == (0, False)
        assert vm.guest.value("read", page(0)) not in (0x5EC, 0xBEEF)


@pytest.mark.parametrize(
    ("gpa", "operation"),
    [(page(0), 0), (page(0), 3), (page(0), 0xF), (1 << 51, TO_SHARED)],
)
async def test_a_conversion_that_cannot_be_is_an_error(
    boot: Boot, gpa: int, operation: int
) -> None:
    async with boot(**SNP) as vm:
        before = vm.state(page(0))
        answer = msr(vm.guest, psc_request(gpa, operation))
        assert answer == FAILED | PSC_REQUEST + 1
        assert vm.state(page(0)) is before


async def test_a_conversion_to_what_a_page_is_changes_nothing(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), 0x5EC)
        to_private(vm.guest, page(0))
        assert vm.state(page(0)) is PRIVATE
        assert vm.guest.value("read", page(0)) == 0x5EC
        to_shared(vm.guest, page(1))
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        assert msr(vm.guest, psc_request(page(1), TO_SHARED)) == PSC_REQUEST + 1
        assert vm.guest.value("read", SHARED_MAP + page(1)) == 0xBEEF


async def test_what_is_no_ram_can_be_converted_and_validated(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        for gpa in (0xA0000, MEMORY_BYTES + 16 * PAGE_SIZE):
            assert msr(vm.guest, psc_request(gpa, TO_SHARED)) == PSC_REQUEST + 1
            assert pvalidate(vm.guest, gpa) == (0, False)


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
@pytest.mark.parametrize("request_", [TERMINATE | 1 << 12 | 2 << 16, TERMINATE])
async def test_the_guest_may_ask_to_be_ended(boot: Boot, coco: str, request_: int) -> None:
    async with boot(coco=coco) as vm:
        await wait_stop(vm, "vmgexit", request_)


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
@pytest.mark.parametrize("request_", [0x003, 0x008, 0x0FF, 0xFFF, RUN_VMPL, 1 << 32 | RUN_VMPL])
async def test_a_request_that_is_none_is_not_answered(boot: Boot, coco: str, request_: int) -> None:
    """KVM resumes the guest, which finds its own request."""
    async with boot(coco=coco) as vm:
        assert msr(vm.guest, request_) == request_


@pytest.mark.parametrize("request_", [PREFERRED_GPA, REGISTER_GPA, PSC_REQUEST])
async def test_a_request_of_snp_ends_an_es_guest(boot: Boot, request_: int) -> None:
    async with boot(coco="sev-es") as vm:
        await wait_stop(vm, "vmgexit", request_)
        await vm.events()


async def test_holding_a_cpu_that_is_not_to_be_started(boot: Boot) -> None:
    """The boot CPU waits for a start-up message that its peer could send: it does not return."""
    async with boot(coco="sev-es") as vm:
        vm.guest.start("vmgexit", AP_RESET_HOLD)
        assert await vm.info()
