# SPDX-License-Identifier: GPL-2.0-or-later
"""PVALIDATE, RMPADJUST, RMPQUERY: every result, and what it does to a page."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import AREA, BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    FAIL_INPUT,
    FAIL_PERMISSION,
    FAIL_SIZEMISMATCH,
    NOT_VALIDATED,
    SIZE_2M,
    SIZE_4K,
    SNP,
    SUCCESS,
    TO_PRIVATE,
    TO_SHARED,
    VECTOR_PF,
    VECTOR_UD,
    VECTOR_VC,
    VMSA_BIT,
    Ghcb,
    psc_entry,
    pvalidate,
    three,
    to_private,
    to_shared,
)  # fmt: skip


pytestmark = pytest.mark.qemu

MIB2 = 2 << 20
LAST = AREA + MIB2 - PAGE_SIZE
UNMAPPED = 64 << 30
UNCHANGED = (SUCCESS, True)
CHANGED = (SUCCESS, False)


def make_pending(vm: BareMachine, gpa: int) -> None:
    """Take a page from the guest by converting it twice."""
    to_shared(vm.guest, gpa)
    to_private(vm.guest, gpa)
    assert vm.state(gpa) is PageState.PENDING


def make_pending_2m(vm: BareMachine) -> None:
    """The same with the first 2 MiB of the test area, at once."""
    ghcb = Ghcb(vm.guest, page(1024))
    for gpa in range(AREA, AREA + MIB2, PAGE_SIZE):
        assert pvalidate(vm.guest, gpa, valid=False) == CHANGED
    for operation in (TO_SHARED, TO_PRIVATE):
        assert ghcb.change_state(psc_entry(AREA, operation, large=True)).status == (0, 0)


async def test_what_the_launch_placed_is_validated(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        assert pvalidate(vm.guest, page(0)) == UNCHANGED
        vm.guest.done("write", page(0), 0x5EC)
        assert pvalidate(vm.guest, page(0)) == UNCHANGED
        assert vm.guest.value("read", page(0)) == 0x5EC


async def test_validation_of_4_kib(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), 0x5EC)
        make_pending(vm, page(0))
        await vm.events()
        assert pvalidate(vm.guest, page(0)) == CHANGED
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.rip) == (Kind.ACCEPT, page(0), "probe_pvalidate")
        assert vm.state(page(0)) is PageState.PRIVATE
        assert vm.guest.value("read", page(0)) != 0x5EC
        assert pvalidate(vm.guest, page(0)) == UNCHANGED


async def test_a_page_given_up_is_pending_and_can_be_validated_again(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        vm.guest.done("write", page(0), 0x5EC)
        assert pvalidate(vm.guest, page(0), valid=False) == CHANGED
        assert vm.state(page(0)) is PageState.PENDING
        assert pvalidate(vm.guest, page(0), valid=False) == UNCHANGED
        fault = vm.guest.fault("read", page(0))
        assert (fault.vector, fault.error) == (VECTOR_VC, NOT_VALIDATED)
        assert pvalidate(vm.guest, page(0)) == CHANGED
        vm.guest.done("write", page(0), 1)


async def test_validation_of_2_mib(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        make_pending_2m(vm)
        assert pvalidate(vm.guest, AREA, SIZE_2M) == CHANGED
        assert vm.states(AREA, LAST) == [PageState.PRIVATE] * 2
        assert pvalidate(vm.guest, AREA, SIZE_2M) == UNCHANGED
        # 4 KiB of it: the host splits the page and the instruction runs again.
        assert pvalidate(vm.guest, page(3)) == UNCHANGED
        assert pvalidate(vm.guest, AREA, SIZE_2M) == (FAIL_SIZEMISMATCH, False)


async def test_a_conversion_within_2_mib_splits_them(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        make_pending_2m(vm)
        assert pvalidate(vm.guest, AREA, SIZE_2M) == CHANGED
        Ghcb(vm.guest, page(1024), register=False).change_state(psc_entry(page(3), TO_SHARED))
        assert pvalidate(vm.guest, AREA, SIZE_2M) == (FAIL_SIZEMISMATCH, False)
        assert pvalidate(vm.guest, page(4)) == UNCHANGED


async def test_pages_of_4_kib_are_no_large_page(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        make_pending(vm, page(0))
        assert pvalidate(vm.guest, AREA, SIZE_2M) == (FAIL_SIZEMISMATCH, False)
        pvalidate(vm.guest, page(0))
        assert three(vm.guest, "rmpadjust", AREA, SIZE_2M, 1)[0] == FAIL_SIZEMISMATCH


@pytest.mark.parametrize(
    ("name", "registers", "result"),
    [
        ("pvalidate", (page(1), SIZE_2M, 1), FAIL_INPUT),
        ("pvalidate", (page(1), SIZE_2M, 0), FAIL_INPUT),
        ("pvalidate", (page(0), 2, 1), FAIL_INPUT),
        ("rmpadjust", (page(0), SIZE_4K, 1), SUCCESS),
        ("rmpadjust", (page(0), SIZE_4K, 0xF << 8 | 3), SUCCESS),
        ("rmpadjust", (page(0), SIZE_4K, VMSA_BIT | 1), SUCCESS),
        ("rmpadjust", (page(0), SIZE_4K, 0), FAIL_PERMISSION),
        ("rmpadjust", (page(0), SIZE_4K, 4), FAIL_INPUT),
        ("rmpadjust", (page(1), SIZE_2M, 1), FAIL_INPUT),
        ("rmpadjust", (page(0), 2, 1), FAIL_INPUT),
        ("rmpadjust", (AREA, SIZE_2M, 1), SUCCESS),
        ("rmpquery", (page(0), 0, 1), SUCCESS),
        ("rmpquery", (page(0), 0, 0), SUCCESS),
        ("rmpquery", (page(0), 0, 4), FAIL_INPUT),
    ],
    ids=str,
)
async def test_result(boot: Boot, name: str, registers: tuple[int, int, int], result: int) -> None:
    async with boot(**SNP) as vm:
        assert three(vm.guest, name, *registers)[0] == result


async def test_a_page_can_be_queried(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        make_pending(vm, page(0))
        pvalidate(vm.guest, page(0))
        assert three(vm.guest, "rmpquery", page(0), 9, 0)[:3] == (SUCCESS, SIZE_4K, 0xF << 8)
        three(vm.guest, "rmpadjust", page(0), SIZE_4K, VMSA_BIT | 1)
        assert three(vm.guest, "rmpquery", page(0), 9, 0)[2] == VMSA_BIT | 0xF << 8
        three(vm.guest, "rmpadjust", page(0), SIZE_4K, 1)
        assert three(vm.guest, "rmpquery", page(0), 9, 0)[2] == 0xF << 8


@pytest.mark.parametrize("name", ["pvalidate", "rmpadjust", "rmpquery"])
async def test_an_address_that_is_not_mapped(boot: Boot, name: str) -> None:
    async with boot(**SNP) as vm:
        fault = vm.guest.fault(name, UNMAPPED, 0, 1)
        assert (fault.vector, fault.cr2) == (VECTOR_PF, UNMAPPED)


@pytest.mark.parametrize("name", ["rmpadjust", "rmpquery"])
async def test_an_instruction_on_a_page_that_is_not_validated(boot: Boot, name: str) -> None:
    async with boot(**SNP) as vm:
        make_pending(vm, page(0))
        fault = vm.guest.fault(name, page(0), 0, 1)
        assert (fault.vector, fault.error) == (VECTOR_VC, NOT_VALIDATED)


@pytest.mark.parametrize("coco", ["generic", "tdx", "sev", "sev-es"])
@pytest.mark.parametrize("name", ["pvalidate", "rmpadjust", "rmpquery"])
async def test_without_snp_there_is_no_such_instruction(boot: Boot, coco: str, name: str) -> None:
    async with boot(coco=coco) as vm:
        assert vm.guest.fault(name, page(0), 0, 1).vector == VECTOR_UD
