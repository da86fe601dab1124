# SPDX-License-Identifier: GPL-2.0-or-later
"""Records carry windows of the guest's stack; what the guest does with its stack harms nobody."""

import os
import struct
from pathlib import Path

import pytest

from cvmlab.images import symbols
from cvmlab.machine.spec import Stacks
from cvmlab.memory.stacks import STACKS_BYTES, Windows
from cvmlab.memory.states import PageState
from cvmlab.unwind import code
from cvmlab.unwind.chain import Unwinder
from cvmlab.unwind.code import Code
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

MAP_GPA_RANGE, TO_SHARED, TO_PRIVATE = 12, 0, 1 << 4
KERNEL = 0xFFFF_FFFF_8000_0000  # where the bare guest sees physical address 0
CODE = page(100)  # the guest runs what a test stores here


@pytest.fixture
def bare_code(bare_elf: Path) -> Code:
    return code.from_elf(bare_elf.read_bytes())


def stacks_of(vm: BareMachine) -> list[int]:
    return [int(number) for number in vm.records()["stack"]]


@pytest.mark.fault("V3")
async def test_a_conversion_tells_its_chain_of_calls(
    boot: Boot, bare_elf: Path, bare_code: Code
) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.records()
        for attributes in (TO_SHARED, TO_PRIVATE) * 4:
            assert vm.guest.value("vmcall", MAP_GPA_RANGE, page(0), 1, attributes, 0) == 0
        numbers = stacks_of(vm)
        first = numbers[0]
        # Kept once for each content; what earlier calls and interrupts have left on the stack varies.
        assert all(numbers)
        assert len(set(numbers)) < len(numbers)

        assert vm.files.fds.stacks is not None
        window = Windows.read(vm.files.fds.stacks, [first]).by_number[first]
        names = symbols.load(bare_elf)
        chain = Unwinder(bare_code).unwind(window)
        functions = [names.function(address) for address in chain.addresses]

        assert functions[0] == "probe_vmcall"
        assert "boot_main" in functions
        assert chain.is_scan  # this guest has neither ORC tables nor frame pointers


async def test_without_being_asked_for_nothing_is_kept(boot: Boot) -> None:
    async with boot(coco="sw-protected", stacks=Stacks.OFF) as vm:
        assert vm.guest.value("vmcall", MAP_GPA_RANGE, page(0), 1, TO_SHARED, 0) == 0
        assert vm.files.fds.stacks is None
        assert not any(stacks_of(vm))


async def test_a_secret_on_the_stack_is_not_in_the_file(boot: Boot) -> None:
    secret = 0x5EC2_E75E_C2E7_1234
    async with boot(coco="sw-protected") as vm:
        vm.guest.write_bytes(CODE, hypercall(TO_SHARED, push=secret))
        assert vm.guest.value("call", CODE) == 0
        assert any(stacks_of(vm))
        assert vm.files.fds.stacks is not None
        held = os.pread(vm.files.fds.stacks, STACKS_BYTES, 0)
        assert struct.pack("<Q", secret) not in held


HOSTILE = {
    "not canonical": 0x8000_0000_0000_0000,
    "nothing there": 0xFFFF_9000_0000_0000,
    "the last byte": 0xFFFF_FFFF_FFFF_FFFF,
    "the end of memory": KERNEL + (64 << 20) - 8,
    "behind memory": KERNEL + (64 << 20),
    "devices": KERNEL + 0xB8000,
    "not aligned": KERNEL + page(10) + 0xFFD,
    "a page that nobody has touched": KERNEL + page(11),
    "a shared page": KERNEL + page(12) + 0xFF8,
    "the page that is converted": KERNEL + page(0) + 0x800,
    "user space": 0x7FFF_0000,
    "zero": 0,
}


@pytest.mark.fault("V3")
async def test_a_stack_pointer_that_leads_anywhere_changes_nothing(boot: Boot) -> None:
    """Leaving the block compares journal, table, counts and storage, to the page."""
    async with boot(coco="sw-protected") as vm:
        await vm.convert("shared", page(12), count=2)
        for number, rsp in enumerate(HOSTILE.values()):
            vm.guest.write_bytes(CODE, hypercall(TO_PRIVATE if number % 2 else TO_SHARED, rsp=rsp))
            vm.records()
            assert vm.guest.value("call", CODE) == 0
            assert len(stacks_of(vm)) == 1
        assert vm.state(page(11)) is PageState.PENDING


def hypercall(attributes: int, *, rsp: int | None = None, push: int = 0) -> bytes:
    """Return code that converts page(0) with a chosen stack pointer, or with a word on its stack."""
    made = b"\x53\x48\xb8" + struct.pack("<Q", push) + b"\x50"  # push rbx; mov rax, imm; push rax
    made += b"\x49\x89\xe1"  # mov r9, rsp
    if rsp is not None:
        made += b"\x48\xbc" + struct.pack("<Q", rsp)  # mov rsp, imm
    made += b"\xb8" + struct.pack("<I", MAP_GPA_RANGE)  # mov eax, imm
    made += b"\xbb" + struct.pack("<I", page(0))  # mov ebx, imm
    made += b"\xb9" + struct.pack("<I", 1)  # mov ecx, imm
    made += b"\xba" + struct.pack("<I", attributes)  # mov edx, imm
    made += b"\x31\xf6\x0f\x01\xc1"  # xor esi, esi; vmcall
    made += b"\x4c\x89\xcc\x59\x5b\xc3"  # mov rsp, r9; pop rcx; pop rbx; ret
    return made + b"\x90" * (-len(made) % 8)
