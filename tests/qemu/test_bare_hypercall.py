# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM_HC_MAP_GPA_RANGE from the guest, as KVM_X86_SW_PROTECTED_VM answers it."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState, RefusalCode
from tests.qemu.bare import WORD
from tests.qemu.bare_machine import MEMORY_BYTES, BareMachine, Event, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

PENDING, PRIVATE, SHARED = PageState.PENDING, PageState.PRIVATE, PageState.SHARED
MAP_GPA_RANGE = 12
TO_SHARED, TO_PRIVATE = 0, 1 << 4
EINVAL, ENOSYS = WORD + 1 - 22, WORD + 1 - 1000
VECTOR_UD = 6

instructions = pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])


def converted(
    instruction: str, gpa: int, before: PageState, after: PageState, pages: int = 1
) -> Event:
    return Event(
        Kind.CONVERT, gpa, pages, vcpu=0, before=before, after=after, rip=f"probe_{instruction}"
    )


def map_range(vm: BareMachine, gpa: int, pages: int, attributes: int, by: str = "vmcall") -> int:
    """Return RAX."""
    return vm.guest.value(by, MAP_GPA_RANGE, gpa, pages, attributes, 0)


@instructions
async def test_the_guest_converts_to_shared_and_back(boot: Boot, instruction: str) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.guest.run("touch", page(2), 2)
        await vm.events()
        assert map_range(vm, page(0), 4, TO_SHARED, instruction) == 0
        assert await vm.events() == [
            converted(instruction, page(0), PENDING, SHARED, 2),
            converted(instruction, page(2), PRIVATE, SHARED, 2),
        ]
        assert map_range(vm, page(0), 4, TO_PRIVATE, instruction) == 0
        assert await vm.events() == [converted(instruction, page(0), SHARED, PENDING, 4)]
        assert (await vm.counters())["conversions"] == 2


async def test_the_page_size_in_the_attributes_is_a_hint(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        assert map_range(vm, page(0), 1, 0x1) == 0
        assert map_range(vm, page(0), 1, TO_PRIVATE | 0x1) == 0
        assert vm.state(page(0)) is PENDING


async def test_a_request_for_what_is_changes_nothing(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.guest.done("write", page(0), 0x5EC)
        await vm.events()
        assert map_range(vm, page(0), 1, TO_PRIVATE) == 0
        assert await vm.events() == []
        assert vm.guest.value("read", page(0)) == 0x5EC


async def test_content_is_lost_in_both_directions(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.guest.done("write", page(0), 0x5EC)
        map_range(vm, page(0), 1, TO_SHARED)
        assert vm.guest.value("read", page(0)) == 0
        vm.guest.done("write", page(0), 0xBEEF)
        assert vm.files.fds.shared is not None
        assert vm.in_file(vm.files.fds.shared, page(0), 8) == (0xBEEF).to_bytes(8, "little")
        map_range(vm, page(0), 1, TO_PRIVATE)
        vm.assert_storage()
        assert vm.guest.value("read", page(0)) == 0


@pytest.mark.parametrize(
    ("gpa", "pages", "attributes"),
    [
        (page(0) + 1, 1, TO_SHARED),
        (page(0) + 0x800, 1, TO_PRIVATE),
        (page(0), 0, TO_SHARED),
        (page(0), 1 << 52, TO_SHARED),
        (page(0), WORD, TO_SHARED),
        (WORD - PAGE_SIZE + 1, 1, TO_PRIVATE),
        (MEMORY_BYTES, 1, TO_PRIVATE),
        (MEMORY_BYTES - PAGE_SIZE, 2, TO_SHARED),
        (0xFEE00000, 1, TO_PRIVATE),
        (page(0), 1, 1 << 5),
    ],
)
async def test_wrong_arguments_are_einval_and_journaled(
    boot: Boot, gpa: int, pages: int, attributes: int
) -> None:
    async with boot(coco="sw-protected") as vm:
        before = vm.table.states()
        await vm.events()
        assert map_range(vm, gpa, pages, attributes) == EINVAL
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.refusal) == (
            Kind.VIOLATION, gpa, RefusalCode.OUT_OF_RANGE,
        )  # fmt: skip
        assert (event.vcpu, event.rip) == (0, "probe_vmcall")
        assert (vm.table.states() == before).all()
        assert (await vm.counters())["guest-violations"] == 1


@pytest.mark.fault("A8")
@pytest.mark.parametrize("gpa", [MEMORY_BYTES, 0xFEE00000, 0xB8000])
async def test_what_is_no_ram_is_shared_already(boot: Boot, gpa: int) -> None:
    """Linux shares video memory so under SEV: it was refused twice in each boot by SeaBIOS."""
    async with boot(coco="sw-protected") as vm:
        await vm.events()
        assert map_range(vm, gpa, 1, TO_SHARED) == 0
        assert await vm.events() == []


async def test_a_poisoned_page_refuses_the_whole_range(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        await vm.change("poison", page(2))
        await vm.events()
        assert map_range(vm, page(0), 4, TO_SHARED) == EINVAL
        (event,) = await vm.events()
        assert (event.kind, event.refusal) == (Kind.VIOLATION, RefusalCode.PAGE_POISONED)
        assert vm.states(page(0), page(3)) == [PENDING, PENDING]


async def test_a_range_over_the_hole_below_4_gib_is_refused(boot: Boot) -> None:
    async with boot(coco="sw-protected", memory_bytes=3 << 30) as vm:
        assert map_range(vm, (2 << 30) - PAGE_SIZE, 2, TO_SHARED) == EINVAL
        assert map_range(vm, (2 << 30) - PAGE_SIZE, 1, TO_SHARED) == 0
        assert map_range(vm, 4 << 30, 1, TO_SHARED) == 0
        assert vm.table.state((2 << 30) // PAGE_SIZE) is SHARED
        assert vm.table.state((2 << 30) // PAGE_SIZE - 1) is SHARED


async def test_kvm_is_found_by_cpuid(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        leaf = vm.guest.run("cpuid", 0x40000000, 0)
        assert isinstance(leaf, tuple)
        eax, *signature = leaf
        assert b"".join(w.to_bytes(4, "little") for w in signature) == b"KVMKVMKVM\0\0\0"
        assert eax == 0x40000001
        features = vm.guest.run("cpuid", 0x40000001, 0)
        assert isinstance(features, tuple)
        assert features[0] & 1 << 16


@instructions
async def test_unknown_hypercalls_are_enosys(boot: Boot, instruction: str) -> None:
    async with boot(coco="sw-protected") as vm:
        assert vm.guest.value(instruction, 99, 1, 2, 3, 4) == ENOSYS
        assert vm.guest.value("ping") == 0


@instructions
async def test_an_unaware_guest_gets_no_hypercalls(boot: Boot, instruction: str) -> None:
    async with boot(coco="generic") as vm:
        fault = vm.guest.fault(instruction, MAP_GPA_RANGE, page(0), 1, TO_SHARED, 0)
        assert fault.vector == VECTOR_UD
        assert vm.state(page(0)) is PENDING


async def test_another_cpu_sees_the_conversion_before_the_call_returns(boot: Boot) -> None:
    async with boot(coco="sw-protected", cpus=2) as vm:
        vm.guest.start_counting(page(0))
        for _ in range(25):
            assert map_range(vm, page(0), 1, TO_SHARED) == 0
            assert vm.in_file(vm.files.fds.private, page(0), 8) == bytes(8)
            vm.assert_storage()
            assert map_range(vm, page(0), 1, TO_PRIVATE) == 0
        result = vm.guest.stop_counting()
        assert 0 < result.lost <= 50
        assert result.faults == 0
