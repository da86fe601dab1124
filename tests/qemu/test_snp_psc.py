# SPDX-License-Identifier: GPL-2.0-or-later
"""Page state changes by the GHCB page: many pages in an exit, cursors, refusals."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState, RefusalCode
from tests.qemu.bare_machine import AREA, Event, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import (
    BUFFER,
    INVALID_SCRATCH,
    MALFORMED,
    PSC,
    SHARED_MAP,
    SIZE_2M,
    SNP,
    TO_PRIVATE,
    TO_SHARED,
    Ghcb,
    psc_entry,
    pvalidate,
)  # fmt: skip


pytestmark = pytest.mark.qemu

MIB2 = 2 << 20
PRIVATE, PENDING, SHARED = PageState.PRIVATE, PageState.PENDING, PageState.SHARED
GHCB_GPA = page(1024)  # beyond the first 2 MiB of the test area
INVALID_HEADER, INVALID_ENTRY = 1 << 32 | 1, 1 << 32 | 2  # SW_EXITINFO2
MAX_ENTRIES = 253


async def test_many_pages_in_one_exit(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        vm.guest.done("write", page(1), 0x5EC)
        for index in range(4):
            pvalidate(vm.guest, page(index), valid=False)
        await vm.events()
        answer = ghcb.change_state(*(psc_entry(page(i), TO_SHARED) for i in range(4)))
        assert (answer.status, ghcb.cursor()) == ((0, 0), (4, 3))
        rip = "probe_vmgexit"
        assert [e for e in await vm.events() if e.kind is Kind.CONVERT] == [
            Event(Kind.CONVERT, page(i), vcpu=0, before=PENDING, after=SHARED, rip=rip)
            for i in range(4)
        ]
        vm.assert_storage()
        vm.guest.done("write", SHARED_MAP + page(1), 0xBEEF)
        ghcb.change_state(*(psc_entry(page(i), TO_PRIVATE) for i in range(4)))
        assert vm.states(page(0), page(3)) == [PENDING, PENDING]
        assert [pvalidate(vm.guest, page(i)) for i in range(4)] == [(0, False)] * 4
        assert vm.guest.value("read", page(1)) not in (0x5EC, 0xBEEF)
        vm.assert_storage()


async def test_both_directions_in_one_exit(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        ghcb.change_state(psc_entry(page(0), TO_SHARED))
        answer = ghcb.change_state(psc_entry(page(0), TO_PRIVATE), psc_entry(page(1), TO_SHARED))
        assert answer.status == (0, 0)
        assert vm.states(page(0), page(1)) == [PENDING, SHARED]


async def test_pages_of_2_mib(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        answer = ghcb.change_state(psc_entry(AREA, TO_SHARED, large=True))
        assert (answer.status, ghcb.cursor()) == ((0, 0), (1, 0))
        assert vm.states(AREA, AREA + MIB2 - PAGE_SIZE, AREA + MIB2) == [SHARED, SHARED, PENDING]
        assert ghcb.entry(0) & 0xFFF == 512
        ghcb.change_state(psc_entry(AREA, TO_PRIVATE, large=True))
        assert pvalidate(vm.guest, AREA, SIZE_2M) == (0, False)
        vm.assert_storage()


async def test_what_was_done_before_is_not_done_again(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        entries = [psc_entry(page(i), TO_SHARED) for i in range(3)]
        assert ghcb.change_state(*entries, cur=1).status == (0, 0)
        assert ghcb.cursor() == (3, 2)
        assert vm.states(page(0), page(1), page(2)) == [PENDING, SHARED, SHARED]
        ghcb.change_state(psc_entry(AREA + MIB2, TO_SHARED, large=True, done=510))
        first, last = AREA + MIB2 + 509 * PAGE_SIZE, AREA + MIB2 + 511 * PAGE_SIZE
        assert vm.states(first, last) == [PENDING, SHARED]


async def test_an_exit_with_as_many_entries_as_there_can_be(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        entries = [psc_entry(page(i), TO_SHARED) for i in range(MAX_ENTRIES)]
        assert ghcb.change_state(*entries).status == (0, 0)
        assert ghcb.cursor() == (MAX_ENTRIES, MAX_ENTRIES - 1)
        assert vm.states(page(0), page(MAX_ENTRIES - 1)) == [SHARED] * 2


@pytest.mark.parametrize(
    ("entries", "cursors", "reason"),
    [
        ([psc_entry(page(1), TO_SHARED, large=True)], {}, INVALID_ENTRY),
        ([psc_entry(page(0), TO_SHARED, done=2)], {}, INVALID_ENTRY),
        ([psc_entry(AREA, TO_SHARED, large=True, done=513)], {}, INVALID_ENTRY),
        ([psc_entry(1 << 51, TO_SHARED)], {}, INVALID_ENTRY),
        ([psc_entry(page(0), TO_SHARED)], {"end": MAX_ENTRIES}, INVALID_HEADER),
    ],
    ids=str,
)
async def test_a_request_that_cannot_be_changes_nothing(
    boot: Boot, entries: list[int], cursors: dict[str, int], reason: int
) -> None:
    async with boot(**SNP) as vm:
        answer = Ghcb(vm.guest, GHCB_GPA).change_state(*entries, **cursors)
        assert answer.status == (0, reason)
        assert vm.states(page(0), page(1)) == [PENDING, PENDING]


@pytest.mark.parametrize(
    ("entries", "cursors", "after"),
    [
        ([psc_entry(page(0), 0), psc_entry(page(0), 5)], {}, (2, 1)),
        ([psc_entry(page(0), TO_SHARED, done=1)], {}, (1, 0)),
        ([psc_entry(page(0), TO_SHARED)], {"cur": 2, "end": 1}, (2, 1)),
    ],
    ids=str,
)
async def test_a_list_without_work_is_done(
    boot: Boot, entries: list[int], cursors: dict[str, int], after: tuple[int, int]
) -> None:
    """Operations that KVM does not know, pages that were converted before, a cursor at the end."""
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        assert ghcb.change_state(*entries, **cursors).status == (0, 0)
        assert ghcb.cursor() == after
        assert vm.state(page(0)) is PENDING


async def test_an_entry_refused_says_which(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, GHCB_GPA)
        await vm.change("poison", page(1))
        await vm.events()
        answer = ghcb.change_state(*(psc_entry(page(i), TO_SHARED) for i in range(3)))
        assert answer.status == (0, 0x100 << 32)
        assert ghcb.cursor() == (1, 2)
        assert vm.states(page(0), page(2)) == [SHARED, PENDING]
        (event,) = [e for e in await vm.events() if e.kind is Kind.VIOLATION]
        assert (event.gpa, event.refusal) == (page(1), RefusalCode.PAGE_POISONED)


@pytest.mark.parametrize("scratch", [0, page(0), GHCB_GPA, GHCB_GPA + BUFFER + 8, 1 << 50])
async def test_entries_outside_of_the_shared_buffer(boot: Boot, scratch: int) -> None:
    async with boot(**SNP) as vm:
        answer = Ghcb(vm.guest, GHCB_GPA).exit(PSC, scratch=scratch)
        assert answer.status == (MALFORMED, INVALID_SCRATCH)
