# SPDX-License-Identifier: GPL-2.0-or-later
"""Further CPUs: by AP creation under SNP, by a start-up message under SEV and SEV-ES."""

import asyncio
import struct
import time
from collections.abc import Callable

import pytest

from cvmlab.memory.records import Kind
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    AP_CREATION,
    INVALID_INPUT,
    MALFORMED,
    SIZE_4K,
    SNP,
    STOP_TIMEOUT_S,
    SUCCESS,
    VMSA_BIT,
    WRITE_DR7,
    Ghcb,
    three,
    to_shared,
)  # fmt: skip


pytestmark = pytest.mark.qemu

VMSA, CODE, COUNTER = page(16), page(17), page(18)
NOW, DESTROY = 1, 2
AP = 1 << 32
FEATURES = 1  # SEV_STATUS without its two lowest bits: SNP
WAIT_S = 30
CODE_SEGMENT, DATA_SEGMENT = (0x08, 0xA9B), (0x10, 0xC93)  # attributes as in a VMCB
VMSA_SIZE = 0x670


def segment(selector: int, attributes: int) -> bytes:
    return struct.pack("<HHIQ", selector, attributes, 0xFFFFFFFF, 0)


def save_area(cr3: int, **changes: int) -> bytes:
    """Return registers that run CODE, by the Programmer's Manual, volume 2, appendix B."""
    area = bytearray(VMSA_SIZE)
    for at in (0x00, 0x20, 0x30, 0x40, 0x50):
        area[at : at + 16] = segment(*DATA_SEGMENT)
    area[0x10:0x20] = segment(*CODE_SEGMENT)
    values = {
        "efer": (0x0D0, 0x1500), "cr4": (0x148, 0x60), "cr3": (0x150, cr3),
        "cr0": (0x158, 0x8001_0031), "dr7": (0x160, 0x400), "dr6": (0x168, 0xFFFF0FF0),
        "rflags": (0x170, 2), "rip": (0x178, CODE), "pat": (0x268, 0x0007_0406_0007_0406),
        "features": (0x3B0, FEATURES), "xcr0": (0x3E8, 1), "mxcsr": (0x408, 0x1F80),
    }  # fmt: skip
    for name, (offset, value) in values.items():
        struct.pack_into("<Q", area, offset, changes.get(name, value))
    area[0xCA] = changes.get("vmpl", 0)
    return bytes(area)


def counts_at(gpa: int) -> bytes:
    return (
        b"\x48\xb8" + gpa.to_bytes(8, "little")  # mov $gpa, %rax
        + b"\xf0\x48\xff\x00"  # lock incq (%rax)
        + b"\xf3\x90\xeb\xf8"  # pause; jmp to incq
    )  # fmt: skip


COUNTING = counts_at(COUNTER)


def walks_from(gpa: int) -> bytes:
    """Return a loop that touches the pages of the 16 MiB from *gpa* on, again and again."""
    return (
        b"\x48\xb8" + gpa.to_bytes(8, "little")  # mov $gpa, %rax
        + b"\xf0\x48\xff\x00"  # lock incq (%rax)
        + b"\x48\x05" + b"\x00\x10\x00\x00"  # add $0x1000, %rax
        + b"\x25\xff\xff\xff\x00"  # and $0xffffff, %eax
        + b"\x0d" + gpa.to_bytes(4, "little")  # or $gpa, %eax
        + b"\xf3\x90\xeb\xe8"  # pause; jmp to incq
    )  # fmt: skip


def prepare(vm: BareMachine, code: bytes = COUNTING, /, **changes: int) -> Ghcb:
    """Have *code* for another CPU, and a save area that runs it; return a GHCB."""
    vm.guest.write_bytes(CODE, code + bytes(-len(code) % 8))
    vm.guest.write_bytes(VMSA, save_area(vm.gpa_of("root_table"), **changes))
    return Ghcb(vm.guest)


def mark(vm: BareMachine) -> None:
    """Have the RMP say that the page is a save area."""
    assert three(vm.guest, "rmpadjust", VMSA, SIZE_4K, VMSA_BIT | 1)[0] == SUCCESS


def wait_until(true: Callable[[], bool]) -> None:
    """Look again and again: a CPU's thread may start late on a busy machine."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline


async def test_a_cpu_runs_what_the_guest_says_and_ends_when_it_says(boot: Boot) -> None:
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm)
        mark(vm)
        assert ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES).status == (0, 0)
        wait_until(lambda: vm.guest.value("read", COUNTER) > 10)
        assert ghcb.exit(AP_CREATION, AP | DESTROY, VMSA, rax=FEATURES).status == (0, 0)

        def stands_still() -> bool:
            return vm.guest.value("read", COUNTER) == vm.guest.value("read", COUNTER)

        wait_until(stands_still)
        assert ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES).status == (0, 0)
        count = vm.guest.value("read", COUNTER)
        wait_until(lambda: vm.guest.value("read", COUNTER) > count)


@pytest.mark.fault("Q11")
async def test_breakpoints_of_a_save_area_are_not_in_force(boot: Boot) -> None:
    """Without DebugSwap, DR0 to DR3 are not the guest's.  In QEMU they are 0: so is what is watched."""
    watch_address_0 = 0xF0403
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm, counts_at(0), dr7=watch_address_0)
        mark(vm)
        before = vm.guest.value("read", 0)
        assert ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES).status == (0, 0)
        wait_until(lambda: vm.guest.value("read", 0) > before + 10)


@pytest.mark.fault("Q11")
async def test_nor_does_an_exit_set_any(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest)
        assert ghcb.exit(WRITE_DR7, rax=0xF0403).status == (0, 0)
        vm.guest.value("read", 0)
        assert ghcb.exit(WRITE_DR7, rax=2**64 - 1).status == (0, 0)
        vm.guest.value("read", 0)


async def test_a_page_that_is_no_save_area_is_refused(boot: Boot) -> None:
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm)
        answer = ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES)
        assert answer.status == (MALFORMED, INVALID_INPUT)
        mark(vm)
        assert ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES).status == (0, 0)


async def test_the_books_agree_although_a_cpu_was_at_work(boot: Boot) -> None:
    """The CPU accepts page after page by touching it, also when the block is left."""
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm, walks_from(0x3000000))
        mark(vm)
        before = vm.table.counts().private
        assert ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES).status == (0, 0)
        wait_until(lambda: vm.table.counts().private > before)


@pytest.mark.parametrize(
    ("changes", "info1", "info2", "features"),
    [
        ({"vmpl": 1}, AP | NOW, VMSA, FEATURES),
        ({"features": 0}, AP | NOW, VMSA, FEATURES),
        ({"features": 3}, AP | NOW, VMSA, 3),
        ({"efer": 0x500}, AP | NOW, VMSA, FEATURES),
        ({}, AP | NOW, VMSA, 0),
        ({}, AP | NOW, VMSA + 8, FEATURES),
        ({}, AP | 1 << 16 | NOW, VMSA, FEATURES),
        ({}, AP | 3, VMSA, FEATURES),
        ({}, 7 << 32 | NOW, VMSA, FEATURES),
        ({}, AP | NOW, page(19), FEATURES),
    ],
    ids=str,
)
async def test_what_the_processor_would_not_run_is_refused(
    boot: Boot, changes: dict[str, int], info1: int, info2: int, features: int
) -> None:
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm, **changes)
        mark(vm)
        answer = ghcb.exit(AP_CREATION, info1, info2, rax=features)
        assert answer.status == (MALFORMED, INVALID_INPUT)
        assert vm.guest.value("read", COUNTER) == 0


async def test_a_cpu_may_replace_its_own_save_area(boot: Boot) -> None:
    """The boot CPU goes on as the save area says, and answers no command any more."""
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm)
        mark(vm)
        ghcb.prepare(AP_CREATION, NOW, VMSA, rax=FEATURES)
        vm.guest.start("vmgexit", ghcb.gpa)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while not any(vm.in_file(vm.files.fds.private, COUNTER, 8)):
                await vm.info()


async def test_a_save_area_at_2_mib_is_refused(boot: Boot) -> None:
    """KVM: processors take the page of a VMSA there for a large page of the RMP."""
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm)
        vm.guest.write_bytes(page(512), save_area(vm.gpa_of("root_table")))
        assert three(vm.guest, "rmpadjust", page(512), SIZE_4K, VMSA_BIT | 1)[0] == SUCCESS
        answer = ghcb.exit(AP_CREATION, AP | NOW, page(512), rax=FEATURES)
        assert answer.status == (MALFORMED, INVALID_INPUT)
        assert vm.guest.value("read", COUNTER) == 0


async def test_a_save_area_that_is_shared_is_refused(boot: Boot) -> None:
    async with boot(**SNP, cpus=2) as vm:
        ghcb = prepare(vm)
        mark(vm)
        to_shared(vm.guest, VMSA)
        answer = ghcb.exit(AP_CREATION, AP | NOW, VMSA, rax=FEATURES)
        assert answer.status == (MALFORMED, INVALID_INPUT)


@pytest.mark.parametrize("coco", ["sev", "sev-es"])
async def test_without_snp_a_cpu_starts_by_a_message(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, cpus=2) as vm:
        assert vm.guest.value("smp") == 2
        vm.guest.start_counting(page(0))
        result = vm.guest.stop_counting()
        assert (result.lost, result.faults) == (0, 0)
        assert [e for e in await vm.events() if e.kind is Kind.GUEST_FAULT] == []
