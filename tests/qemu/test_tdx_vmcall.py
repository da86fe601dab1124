# SPDX-License-Identifier: GPL-2.0-or-later
"""TDG.VP.VMCALL: every function of GHCI, what it does and how it refuses."""

import asyncio
from pathlib import Path

import pytest

from cvmlab.attestation.quotes import fake_quote, quote_service
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind
from cvmlab.memory.states import PageState, RefusalCode
from tests.qemu.bare import WORD, Registers
from tests.qemu.bare_machine import MEMORY_BYTES, Event, page
from tests.qemu.conftest import Boot
from tests.qemu.tdx import (
    ALIGN_ERROR,
    ALL_REGISTERS,
    CPUID,
    EVENT_NOTIFY,
    FATAL_ERROR,
    GET_INFO,
    GET_QUOTE,
    INVALID_OPERAND,
    IO,
    MAP_GPA,
    MMIO,
    RDMSR,
    REPORT,
    RETRY,
    SHARED,
    SHARED_MAP,
    SUCCESS,
    UNSUPPORTED,
    VMCALL,
    WRMSR,
    map_gpa,
    tdcall,
    vmcall,
)  # fmt: skip


pytestmark = pytest.mark.qemu

HPET = 0xFED0_0000
COM1_SCRATCH = 0x3FF
MSR_X2APIC_SIVR, MSR_X2APIC_ISR_32 = 0x80F, 0x811
QUOTE_VECTOR = 0x2A  # one of those that the guest has a gate for
MSR_X2APIC_ID, MSR_MTRR_MASK = 0x802, 0x201
PRIVATE, PENDING, SHARED_STATE = PageState.PRIVATE, PageState.PENDING, PageState.SHARED


@pytest.mark.parametrize(
    ("function", "registers", "status"),
    [
        (0x10005, {}, UNSUPPORTED),
        (0, {}, UNSUPPORTED),
        (2**64 - 1, {}, UNSUPPORTED),
        (IO, {"r12": 3, "r14": COM1_SCRATCH}, INVALID_OPERAND),
        (IO, {"r12": 8, "r14": COM1_SCRATCH}, INVALID_OPERAND),
        (IO, {"r12": 0, "r14": COM1_SCRATCH}, INVALID_OPERAND),
        (IO, {"r12": 1, "r13": 2, "r14": COM1_SCRATCH}, INVALID_OPERAND),
        (IO, {"r12": 1, "r14": 0x10000}, INVALID_OPERAND),
        (MMIO, {"r12": 16, "r14": HPET}, INVALID_OPERAND),
        (MMIO, {"r12": 4, "r13": 2, "r14": HPET}, INVALID_OPERAND),
        (MMIO, {"r12": 4, "r14": 1 << 48}, INVALID_OPERAND),
        (RDMSR, {"r12": MSR_X2APIC_ID}, SUCCESS),
        (WRMSR, {"r12": MSR_X2APIC_ID}, INVALID_OPERAND),
        (GET_INFO, {"r12": 2}, INVALID_OPERAND),
        (MAP_GPA, {"r12": SHARED | page(0)}, INVALID_OPERAND),
        (MAP_GPA, {"r12": SHARED << 1, "r13": PAGE_SIZE}, INVALID_OPERAND),
        (MAP_GPA, {"r12": SHARED - PAGE_SIZE, "r13": 2 * PAGE_SIZE}, INVALID_OPERAND),
        (MAP_GPA, {"r12": page(0), "r13": 2**64 - PAGE_SIZE}, INVALID_OPERAND),
        (MAP_GPA, {"r12": page(0) + 8, "r13": PAGE_SIZE}, ALIGN_ERROR),
        (MAP_GPA, {"r12": page(0), "r13": 8}, ALIGN_ERROR),
        (MAP_GPA, {"r12": SHARED | HPET, "r13": PAGE_SIZE}, SUCCESS),
        (GET_QUOTE, {"r12": page(0), "r13": PAGE_SIZE}, INVALID_OPERAND),
        (GET_QUOTE, {"r12": SHARED | page(0), "r13": PAGE_SIZE}, INVALID_OPERAND),
        (GET_QUOTE, {"r12": SHARED | page(0), "r13": 8}, ALIGN_ERROR),
        (EVENT_NOTIFY, {"r12": 31}, INVALID_OPERAND),
        (EVENT_NOTIFY, {"r12": 256}, INVALID_OPERAND),
        (EVENT_NOTIFY, {"r12": 0x50}, SUCCESS),
    ],
    ids=str,
)
async def test_status(boot: Boot, function: int, registers: dict[str, int], status: int) -> None:
    async with boot(coco="tdx") as vm:
        assert vmcall(vm.guest, function, **registers).r10 == status


async def test_a_vendor_call_is_unknown(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        answer = vmcall(vm.guest, 5, r10=1)
        assert answer.r10 == 2**64 - 1000


async def test_registers_that_are_not_passed_keep_their_values(boot: Boot) -> None:
    only_function = 1 << 10 | 1 << 11
    async with boot(coco="tdx") as vm:
        answer = tdcall(vm.guest, VMCALL, rcx=only_function, r11=CPUID, r12=1, r13=2, r14=3)
        assert (answer.rax, answer.r10) == (SUCCESS, SUCCESS)
        assert (answer.r12, answer.r13, answer.r14) == (1, 2, 3)
        assert answer.rcx == only_function


async def test_cpuid(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        answer = vmcall(vm.guest, CPUID, r12=0x21)
        native = vm.guest.run("cpuid", 0x21, 0)
        assert (answer.r12, answer.r13, answer.r14, answer.r15) == native
        words = (answer.r13, answer.r15, answer.r14)
        assert b"".join(word.to_bytes(4, "little") for word in words) == b"IntelTDX    "
        assert vmcall(vm.guest, CPUID, r12=0).r12 >= 0x21
        vendor = vmcall(vm.guest, CPUID, r12=0)
        words = (vendor.r13, vendor.r15, vendor.r14)
        assert b"".join(word.to_bytes(4, "little") for word in words) == b"GenuineIntel"


async def test_port_io(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        assert vmcall(vm.guest, IO, r12=1, r13=1, r14=COM1_SCRATCH, r15=0x5A).r10 == SUCCESS
        assert vmcall(vm.guest, IO, r12=1, r14=COM1_SCRATCH).r11 == 0x5A
        assert vm.guest.value("inb", COM1_SCRATCH) == 0x5A


async def test_msr(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        assert vmcall(vm.guest, WRMSR, r12=MSR_MTRR_MASK, r13=0x1234_5678_9ABC).r10 == SUCCESS
        assert vmcall(vm.guest, RDMSR, r12=MSR_MTRR_MASK).r11 == 0x1234_5678_9ABC
        assert vm.guest.value("rdmsr", MSR_MTRR_MASK) == 0x1234_5678_9ABC


@pytest.mark.parametrize("bit", [0, SHARED])
async def test_mmio(boot: Boot, bit: int) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("map-shared", 47)
        native = vm.guest.value("read", HPET)
        assert native
        assert vmcall(vm.guest, MMIO, r12=8, r14=HPET | bit).r11 == native
        assert vmcall(vm.guest, MMIO, r12=4, r14=HPET | bit).r11 == native & 0xFFFF_FFFF


async def test_mmio_of_private_memory_is_a_host_access(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("write", page(0), 0x5EC)
        await vm.events()
        assert vmcall(vm.guest, MMIO, r12=8, r14=page(0)).r11 == 0
        (event,) = await vm.events()
        assert (event.kind, event.actor, event.gpa) == (Kind.HOST_FAULT, Actor.HOST, page(0))


async def test_what_the_host_offers(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        answer = vmcall(vm.guest, GET_INFO)
        assert (answer.r10, answer.r11, answer.r12, answer.r13, answer.r14) == (0, 0, 0, 0, 0)
        assert vmcall(vm.guest, GET_INFO, r12=1).r11 == 3


async def test_map_gpa_many_pages(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("map-shared", 47)
        vm.guest.done("write", page(1), 0x5EC)
        await vm.events()
        assert map_gpa(vm.guest, SHARED | page(0), 4 * PAGE_SIZE) == SUCCESS
        rip = "probe_tdcall_at"
        assert await vm.events() == [
            Event(Kind.CONVERT, page(0), 1, vcpu=0, after=SHARED_STATE, rip=rip),
            Event(Kind.CONVERT, page(1), 1, vcpu=0, before=PRIVATE, after=SHARED_STATE, rip=rip),
            Event(Kind.CONVERT, page(2), 2, vcpu=0, after=SHARED_STATE, rip=rip),
        ]
        vm.assert_storage()
        assert vm.guest.value("read", SHARED_MAP + page(1)) == 0
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        assert vm.files.fds.shared is not None
        assert vm.in_file(vm.files.fds.shared, page(1), 2) == b"\xef\xbe"
        assert map_gpa(vm.guest, page(0), 4 * PAGE_SIZE) == SUCCESS
        assert vm.states(page(0), page(3)) == [PENDING, PENDING]
        vm.assert_storage()


async def test_map_gpa_of_ram_and_what_is_none(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        start = MEMORY_BYTES - PAGE_SIZE
        assert map_gpa(vm.guest, SHARED | start, 4 * PAGE_SIZE) == SUCCESS
        assert vm.state(start) is SHARED_STATE


async def test_map_gpa_that_has_to_be_tried_again(boot: Boot) -> None:
    async with boot(coco="tdx", mapgpa="max:8K") as vm:
        answer = vmcall(vm.guest, MAP_GPA, r12=SHARED | page(0), r13=5 * PAGE_SIZE)
        assert (answer.r10, answer.r11) == (RETRY, SHARED | page(2))
        assert vm.states(page(1), page(2)) == [SHARED_STATE, PENDING]
        answer = vmcall(vm.guest, MAP_GPA, r12=answer.r11, r13=3 * PAGE_SIZE)
        assert (answer.r10, answer.r11) == (RETRY, SHARED | page(4))
        assert map_gpa(vm.guest, answer.r11, PAGE_SIZE) == SUCCESS


async def test_map_gpa_that_is_put_off(boot: Boot) -> None:
    async with boot(coco="tdx", mapgpa="retry:2") as vm:
        start, size = SHARED | page(0), PAGE_SIZE
        for _ in range(2):
            answer = vmcall(vm.guest, MAP_GPA, r12=start, r13=size)
            assert (answer.r10, answer.r11, vm.state(page(0))) == (RETRY, start, PENDING)
        assert map_gpa(vm.guest, start, size) == SUCCESS
        assert vm.state(page(0)) is SHARED_STATE
        assert map_gpa(vm.guest, page(0), size) == RETRY
        assert (await vm.counters())["guest-violations"] == 0


async def test_map_gpa_that_the_host_refuses(boot: Boot) -> None:
    async with boot(coco="tdx", mapgpa="refuse") as vm:
        await vm.events()
        answer = vmcall(vm.guest, MAP_GPA, r12=SHARED | page(0), r13=4 * PAGE_SIZE)
        assert (answer.r10, answer.r11) == (INVALID_OPERAND, SHARED | page(0))
        assert vm.state(page(0)) is PENDING
        (event,) = await vm.events()
        assert (event.kind, event.refusal, event.pages) == (
            Kind.VIOLATION,
            RefusalCode.BY_POLICY,
            4,
        )
        assert (event.gpa, event.rip) == (page(0), "probe_tdcall_at")


async def test_map_gpa_refused_says_where_and_changes_nothing(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        await vm.change("poison", page(2))
        await vm.events()
        answer = vmcall(vm.guest, MAP_GPA, r12=SHARED | page(0), r13=4 * PAGE_SIZE)
        assert (answer.r10, answer.r11) == (INVALID_OPERAND, SHARED | page(2))
        (event,) = await vm.events()
        assert (event.kind, event.refusal) == (Kind.VIOLATION, RefusalCode.PAGE_POISONED)
        assert vm.states(page(0), page(3)) == [PENDING, PENDING]


async def test_get_quote_without_a_service(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("map-shared", 47)
        map_gpa(vm.guest, SHARED | page(0), 4 * PAGE_SIZE)
        buffer = SHARED_MAP + page(0)
        vm.guest.done("write", buffer, 1)
        vm.guest.done("write", buffer + 16, 1024)
        answer = vmcall(vm.guest, GET_QUOTE, r12=SHARED | page(0), r13=4 * PAGE_SIZE)
        assert answer.r10 == SUCCESS
        assert vm.guest.value("read", buffer + 8) == 1 << 63 | 1


async def test_get_quote(boot: Boot, tmp_path: Path) -> None:
    async with (
        quote_service(tmp_path / "q.sock") as path,
        boot(coco="tdx", quote_socket=path, guest_options=("gpaw=48",)) as vm,
    ):
        vm.guest.done("map-shared", 47)
        map_gpa(vm.guest, SHARED | page(0), 4 * PAGE_SIZE)
        buffer = SHARED_MAP + page(0)
        tdcall(vm.guest, REPORT, rcx=page(8), rdx=page(9))
        report = vm.guest.read_bytes(page(8), 1024)
        vm.guest.write_bytes(buffer + 24, report)
        vm.guest.done("write", buffer, 1)
        vm.guest.done("write", buffer + 16, 1024)
        vm.guest.done("wrmsr", MSR_X2APIC_SIVR, 0x1FF)
        vmcall(vm.guest, EVENT_NOTIFY, r12=QUOTE_VECTOR)
        answer = vmcall(vm.guest, GET_QUOTE, r12=SHARED | page(0), r13=4 * PAGE_SIZE)
        assert answer.r10 == SUCCESS
        async with asyncio.timeout(10):
            while (status := vm.guest.value("read", buffer + 8)) == WORD:
                await vm.info()  # lets the service run
        assert status == 0
        size = vm.guest.value("read", buffer + 16) >> 32
        quote = vm.guest.read_bytes(buffer + 24, (size + 7) & ~7)[:size]
        assert quote == fake_quote(report)
        # The guest takes the interrupt, but does not tell its APIC when it is done with it.
        async with asyncio.timeout(10):
            while vm.guest.value("rdmsr", MSR_X2APIC_ISR_32) != 1 << QUOTE_VECTOR - 32:
                await vm.info()


async def test_a_fatal_error_is_a_panic_with_the_guest_s_message(
    boot: Boot, tmp_path: Path
) -> None:
    words = [int.from_bytes(part, "little") for part in (b"no page ", b"was left")]
    async with boot(coco="tdx") as vm:
        with vm.qmp.events() as stream:
            registers = {"rcx": ALL_REGISTERS, "r11": FATAL_ERROR, "r12": 7}
            values = {**registers, "r14": words[0], "r15": words[1]}
            vm.guest.start("tdcall", VMCALL, *(values.get(n, 0) for n in Registers.NAMES[1:]))
            async with asyncio.timeout(20):
                while (await anext(stream)).name != "GUEST_PANICKED":
                    pass
        log = (tmp_path / "qemu.log").read_text()
        assert "TD guest reports a fatal error 0x7: no page was left" in log
