# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits by the GHCB page: every one of the specification, answered or refused with the right code."""

import struct

import pytest

from cvmlab.memory.records import Actor, Kind
from tests.qemu.bare_machine import page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    AP_CREATION,
    AP_HLT_LOOP,
    AP_JUMP_TABLE,
    APIC_IDS,
    BUFFER,
    CPUID,
    EXT_GUEST_REQUEST,
    FEATURE_AP_CREATION,
    FEATURE_SNP,
    GUEST_REQUEST,
    HV_DOORBELL,
    HV_FEATURES,
    HV_IPI,
    HV_TIMER,
    INVALID_EVENT,
    INVALID_INPUT,
    INVALID_SCRATCH,
    INVALID_USAGE,
    INVD,
    IOIO,
    IOIO_8,
    IOIO_16,
    IOIO_32,
    IOIO_IN,
    IOIO_OUT,
    MALFORMED,
    MISSING_INPUT,
    MMIO_READ,
    MMIO_WRITE,
    MONITOR,
    MSR,
    MWAIT,
    NMI_COMPLETE,
    PSC,
    RAISE_EXCEPTION,
    RDPMC,
    RDTSC,
    RDTSCP,
    READ_DR7,
    REGISTER_GPA,
    SHARED_MAP,
    SNP,
    SNP_RUN_VMPL,
    TERMINATION,
    UNSUPPORTED,
    VMMCALL,
    WBINVD,
    WRITE_DR7,
    Ghcb,
    msr,
    to_shared,
    wait_stop,
)  # fmt: skip


pytestmark = pytest.mark.qemu

OK = (0, 0)
HPET = 0xFED0_0000
COM1_SCRATCH = 0x3FF
MSR_MTRR_MASK, MSR_X2APIC_ID = 0x201, 0x802
INJECT_GP = 1 << 31 | 1 << 11 | 3 << 8 | 13  # valid, with an error code, exception 13
OTHER = page(65)


@pytest.mark.parametrize(
    ("code", "fields", "status"),
    [
        (READ_DR7, {}, OK),
        (WRITE_DR7, {"rax": 0x400}, OK),
        (RDTSC, {}, OK),
        (RDTSCP, {}, OK),
        (RDPMC, {"rcx": 0}, (RAISE_EXCEPTION, INJECT_GP)),
        (INVD, {}, OK),
        (WBINVD, {}, OK),
        (MONITOR, {"rax": 0, "rcx": 0, "rdx": 0}, OK),
        (MWAIT, {"rax": 0, "rcx": 0}, OK),
        (NMI_COMPLETE, {}, OK),
        (AP_JUMP_TABLE, {"info1": 1}, OK),
        (AP_JUMP_TABLE, {"info1": 0, "info2": page(0)}, OK),
        (AP_JUMP_TABLE, {"info1": 2}, (MALFORMED, INVALID_INPUT)),
        (HV_DOORBELL, {}, (MALFORMED, INVALID_EVENT)),
        (HV_IPI, {}, (MALFORMED, INVALID_EVENT)),
        (HV_TIMER, {}, (MALFORMED, INVALID_EVENT)),
        (SNP_RUN_VMPL, {"info1": 1}, (MALFORMED, INVALID_INPUT)),
        (0x400, {}, (MALFORMED, INVALID_EVENT)),
        (0x80000019, {}, (MALFORMED, INVALID_EVENT)),
        (0, {}, (MALFORMED, INVALID_EVENT)),
        (2**64 - 1, {}, (MALFORMED, INVALID_EVENT)),
        (
            IOIO,
            {"info1": COM1_SCRATCH << 16 | IOIO_8 | IOIO_32, "rax": 0},
            (MALFORMED, INVALID_INPUT),
        ),
        (IOIO, {"info1": COM1_SCRATCH << 16, "rax": 0}, OK),
        (MMIO_READ, {"info1": HPET, "info2": 0, "scratch": page(64) + BUFFER}, OK),
        (
            MMIO_READ,
            {"info1": HPET, "info2": 9, "scratch": page(64) + BUFFER},
            (MALFORMED, INVALID_INPUT),
        ),
        (MMIO_READ, {"info1": HPET, "info2": 8, "scratch": page(0)}, (MALFORMED, INVALID_SCRATCH)),
        (GUEST_REQUEST, {"info1": page(0), "info2": page(1)}, (MALFORMED, INVALID_INPUT)),
        (GUEST_REQUEST, {"info1": page(0) + 8, "info2": page(1)}, (MALFORMED, MISSING_INPUT)),
        (GUEST_REQUEST, {"info1": page(0), "info2": page(0)}, (MALFORMED, MISSING_INPUT)),
        (
            AP_CREATION,
            {"info1": 5 << 32 | 1, "info2": page(0), "rax": 1},
            (MALFORMED, INVALID_INPUT),
        ),
        (AP_CREATION, {"info1": 3, "info2": page(0), "rax": 1}, (MALFORMED, INVALID_INPUT)),
        (AP_CREATION, {"info1": 7 << 32 | 1, "info2": page(0)}, (MALFORMED, MISSING_INPUT)),
        (AP_CREATION, {"info1": 7 << 32 | 2, "info2": page(0)}, (MALFORMED, INVALID_INPUT)),
        (PSC, {}, (MALFORMED, MISSING_INPUT)),
    ],
    ids=str,
)
async def test_status(
    boot: Boot, code: int, fields: dict[str, int], status: tuple[int, int]
) -> None:
    async with boot(**SNP) as vm:
        assert Ghcb(vm.guest).exit(code, **fields).status == status


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        (CPUID, {"rax": 0, "rcx": 0}),
        (CPUID, {"rax": 0xD, "rcx": 0, "xcr0": 1}),
        (MSR, {"rcx": MSR_MTRR_MASK}),
        (IOIO, {"info1": COM1_SCRATCH << 16 | IOIO_8 | IOIO_OUT, "rax": 0}),
        (WRITE_DR7, {"rax": 0x400}),
        (RDPMC, {"rcx": 0}),
        (VMMCALL, {"rax": 1}),
        (MMIO_READ, {"info1": HPET, "info2": 8, "scratch": page(64) + BUFFER}),
    ],
    ids=str,
)  # fmt: skip
async def test_a_field_that_is_not_marked_as_valid(
    boot: Boot, code: int, fields: dict[str, int]
) -> None:
    needed = [name for name in fields if name not in ("info1", "info2")]
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        for name in needed:
            answer = ghcb.exit(code, missing=(name,), **fields)
            assert (name, answer.status) == (name, (MALFORMED, MISSING_INPUT))
        for name in ("exit_code", "info1", "info2"):
            assert ghcb.exit(code, missing=(name,), **fields).status == (MALFORMED, MISSING_INPUT)
        assert ghcb.exit(RDTSC).status == OK


async def test_what_the_page_must_say_of_itself(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        assert ghcb.exit(RDTSC, usage=1).status == (MALFORMED, INVALID_USAGE)
        assert ghcb.exit(RDTSC, version=1).status == OK
        assert ghcb.exit(RDTSC).status == OK


async def test_sev_es_registers_no_page(boot: Boot) -> None:
    async with boot(coco="sev-es") as vm:
        assert Ghcb(vm.guest, register=False).exit(RDTSC).status == OK


@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_cpuid(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        ghcb = Ghcb(vm.guest, register=coco == "sev-snp")
        answer = ghcb.exit(CPUID, rax=0x8000001F, rcx=0)
        assert answer.status == OK
        native = vm.guest.run("cpuid", 0x8000001F, 0)
        assert (answer.rax, answer.rbx, answer.rcx, answer.rdx) == native


async def test_msr(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        written = ghcb.exit(MSR, 1, rcx=MSR_MTRR_MASK, rax=0x5678_9ABC, rdx=0x1234)
        assert written.status == OK
        assert vm.guest.value("rdmsr", MSR_MTRR_MASK) == 0x1234_5678_9ABC
        answer = ghcb.exit(MSR, 0, rcx=MSR_MTRR_MASK)
        assert (answer.status, answer.rax, answer.rdx) == (OK, 0x5678_9ABC, 0x1234)


async def test_port_io(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        port = COM1_SCRATCH << 16 | IOIO_8
        assert ghcb.exit(IOIO, port | IOIO_OUT, rax=0x5A).status == OK
        assert vm.guest.value("inb", COM1_SCRATCH) == 0x5A
        answer = ghcb.exit(IOIO, port | IOIO_IN, rax=0)
        assert (answer.status, answer.rax & 0xFF) == (OK, 0x5A)


@pytest.mark.parametrize(("size", "mask"), [(IOIO_16, 0xFFFF), (IOIO_32, 0xFFFFFFFF)])
async def test_port_io_of_all_sizes(boot: Boot, size: int, mask: int) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        select = 0x80000000
        ghcb.exit(IOIO, 0xCF8 << 16 | IOIO_32 | IOIO_OUT, rax=select)
        native = vm.guest.value("inl", 0xCFC)
        answer = ghcb.exit(IOIO, 0xCFC << 16 | size | IOIO_IN, rax=0)
        assert (answer.status, answer.rax & mask) == (OK, native & mask)


@pytest.mark.parametrize("length", [4, 8])
async def test_mmio(boot: Boot, length: int) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        native = vm.guest.value("read", HPET)
        scratch = ghcb.gpa + BUFFER
        assert ghcb.exit(MMIO_READ, HPET, length, scratch=scratch).status == OK
        mask = (1 << 8 * length) - 1
        assert ghcb.read(BUFFER) & mask == native & mask


async def test_mmio_writes(boot: Boot) -> None:
    comparator = HPET + 0x108
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        scratch = ghcb.fill(struct.pack("<Q", 0x1234))
        assert ghcb.exit(MMIO_WRITE, comparator, 4, scratch=scratch).status == OK
        assert vm.guest.value("read", comparator) & 0xFFFFFFFF == 0x1234


async def test_mmio_of_private_memory_is_a_host_access(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        vm.guest.done("write", page(0), 0x5EC)
        await vm.events()
        ghcb.exit(MMIO_READ, page(0), 8, scratch=ghcb.gpa + BUFFER)
        assert ghcb.read(BUFFER) == 0
        (event,) = await vm.events()
        assert (event.kind, event.actor, event.gpa) == (Kind.HOST_FAULT, Actor.HOST, page(0))


async def test_features(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        answer = Ghcb(vm.guest).exit(HV_FEATURES)
        assert answer.status == (0, FEATURE_SNP | FEATURE_AP_CREATION)


async def test_the_ap_jump_table_is_what_was_set(boot: Boot) -> None:
    async with boot(coco="sev-es") as vm:
        ghcb = Ghcb(vm.guest, register=False)
        assert ghcb.exit(AP_JUMP_TABLE, 1).status == OK
        assert ghcb.exit(AP_JUMP_TABLE, 0, page(7)).status[0] == 0
        assert ghcb.exit(AP_JUMP_TABLE, 1).status == (0, page(7))


async def test_the_list_of_apic_ids(boot: Boot) -> None:
    async with boot(**SNP, cpus=2) as vm:
        ghcb = Ghcb(vm.guest)
        to_shared(vm.guest, page(0))
        answer = ghcb.exit(APIC_IDS, page(0), rax=1)
        assert answer.status == OK
        words = [vm.guest.value("read", SHARED_MAP + page(0) + at) for at in (0, 8)]
        assert struct.pack("<QQ", *words)[:12] == struct.pack("<III", 2, 0, 1)
        assert ghcb.exit(APIC_IDS, page(0), rax=0).rax == 1


@pytest.mark.parametrize("gpa", [0, 1 << 40])
async def test_where_no_page_is_the_guest_just_goes_on(boot: Boot, gpa: int) -> None:
    """KVM resumes the guest behind VMGEXIT, whether it has registered a page or not."""
    async with boot(**SNP) as vm:
        await vm.events()
        assert msr(vm.guest, gpa) == gpa
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.rip) == (Kind.VIOLATION, gpa, "probe_vmgexit")
        assert Ghcb(vm.guest).exit(RDTSC).status == OK


@pytest.mark.parametrize("registered", [True, False])
async def test_a_page_that_the_host_cannot_use_stops_the_guest(
    boot: Boot, registered: bool
) -> None:
    async with boot(**SNP) as vm:
        if registered:
            msr(vm.guest, OTHER | REGISTER_GPA)
        else:
            to_shared(vm.guest, OTHER)
        await wait_stop(vm, "vmgexit", OTHER)
        (event,) = [e for e in await vm.events() if e.kind is Kind.VIOLATION]
        assert (event.gpa, event.rip) == (OTHER, "probe_vmgexit")


@pytest.mark.parametrize("code", [TERMINATION, UNSUPPORTED])
@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
async def test_the_guest_may_ask_to_be_ended(boot: Boot, coco: str, code: int) -> None:
    async with boot(coco=coco) as vm:
        ghcb = Ghcb(vm.guest, register=coco == "sev-snp")
        ghcb.prepare(code, 2 << 4 | 1)
        await wait_stop(vm, "vmgexit", ghcb.gpa)


async def test_the_msr_protocol_goes_on_beside_the_page(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        ghcb.exit(RDTSC)
        assert msr(vm.guest, 0x002) & 0xFFF == 0x001
        assert ghcb.exit(RDTSC).status == OK


async def test_an_msr_that_is_none_raises_an_exception(boot: Boot) -> None:
    """The guest's handler is told to raise #GP: there is no x2APIC here."""
    async with boot(**SNP) as vm:
        answer = Ghcb(vm.guest).exit(MSR, 0, rcx=MSR_X2APIC_ID)
        assert answer.status == (RAISE_EXCEPTION, INJECT_GP)


async def test_an_unknown_hypercall(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        answer = Ghcb(vm.guest).exit(VMMCALL, rax=0x1234, rbx=0, rcx=0, rdx=0, rsi=0)
        assert (answer.status, answer.rax) == (OK, 2**64 - 1000)


@pytest.mark.parametrize("code", [EXT_GUEST_REQUEST, GUEST_REQUEST])
async def test_a_guest_request_that_nobody_answers(boot: Boot, code: int) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        for index in (0, 1):
            to_shared(vm.guest, page(index))
        answer = ghcb.exit(code, page(0), page(1), rax=page(2), rbx=0)
        assert (answer.info1 & 0xFFFFFFFF, answer.info2) == (0, 0xFFFFFFFF << 32)


async def test_a_cpu_that_holds_is_not_run(boot: Boot) -> None:
    """The boot CPU waits for a start that its peer could send: the exit does not return."""
    async with boot(coco="sev-es") as vm:
        ghcb = Ghcb(vm.guest, register=False)
        ghcb.prepare(AP_HLT_LOOP)
        vm.guest.start("vmgexit", ghcb.gpa)
        assert await vm.info()
