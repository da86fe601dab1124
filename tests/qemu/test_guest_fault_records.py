# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of a guest fault says how the guest addressed the page, and what it wanted of it."""

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import (
    FLAG_ACCEPTING,
    FLAG_AS_PRIVATE,
    FLAG_AS_SHARED,
    FLAG_IMPLICIT,
    FLAG_WALK,
    FLAG_WRITE,
    Kind,
)
from cvmlab.memory.states import RefusalCode
from cvmlab.results.guest_faults import FaultCase, case_of
from tests.qemu import snp, tdx
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

VE_ON = ("sept-ve-disable=off",)


def only(vm: BareMachine, kind: Kind) -> tuple[int, FaultCase]:
    """Return flags and case of the only record of *kind* since the last look."""
    records = vm.records()
    (record,) = records[records["kind"] == kind]
    return int(record["flags"]), case_of(record)


@pytest.mark.fault("V1")
async def test_a_td_touches_pending_and_shared_pages_by_either_address(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        vm.guest.done("map-shared", 47)
        assert tdx.map_gpa(vm.guest, tdx.SHARED | page(0), PAGE_SIZE) == tdx.SUCCESS
        vm.records()
        vm.guest.fault("read", page(0))
        flags, case = only(vm, Kind.GUEST_FAULT)
        assert (flags, case) == (FLAG_AS_PRIVATE, FaultCase.SHARED_AS_PRIVATE)

        tdx.tdcall(vm.guest, tdx.VEINFO_GET)
        assert tdx.map_gpa(vm.guest, page(0), PAGE_SIZE) == tdx.SUCCESS
        vm.records()
        vm.guest.fault("write", page(0), 1)
        flags, case = only(vm, Kind.GUEST_FAULT)
        assert (flags, case) == (FLAG_AS_PRIVATE | FLAG_WRITE, FaultCase.PENDING)

        tdx.tdcall(vm.guest, tdx.VEINFO_GET)
        assert tdx.accept(vm.guest, page(0)) == tdx.SUCCESS
        vm.records()
        vm.guest.fault("read", tdx.SHARED_MAP + page(0))
        assert only(vm, Kind.GUEST_FAULT) == (FLAG_AS_SHARED, FaultCase.PRIVATE_AS_SHARED)


@pytest.mark.fault("V1")
async def test_a_second_acceptance_is_journaled_as_one(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        vm.guest.done("map-shared", 47)
        assert tdx.map_gpa(vm.guest, tdx.SHARED | page(0), PAGE_SIZE) == tdx.SUCCESS
        assert tdx.map_gpa(vm.guest, page(0), PAGE_SIZE) == tdx.SUCCESS
        assert tdx.accept(vm.guest, page(0)) == tdx.SUCCESS
        vm.records()
        assert tdx.accept(vm.guest, page(0)) == tdx.ALREADY_ACCEPTED
        (record,) = vm.records()
        assert record["kind"] == Kind.VIOLATION
        assert record["refusal"] == RefusalCode.ALREADY_ACCEPTED
        assert record["gpa"] == page(0)


@pytest.mark.fault("V1")
async def test_accepting_a_shared_page_is_told_from_touching_it(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=VE_ON) as vm:
        vm.guest.done("map-shared", 47)
        assert tdx.map_gpa(vm.guest, tdx.SHARED | page(0), PAGE_SIZE) == tdx.SUCCESS
        vm.records()
        await snp.wait_stop(vm, "tdcall", tdx.PAGE_ACCEPT, page(0), *[0] * 9)
        flags, case = only(vm, Kind.GUEST_FAULT)
        assert flags & FLAG_ACCEPTING
        assert case is FaultCase.ACCEPTED_SHARED


@pytest.mark.fault("V2")
async def test_a_conversion_by_use_is_marked(boot: Boot) -> None:
    async with boot(coco="sev-snp") as vm:
        vm.guest.done("map-shared", 0)
        vm.records()
        vm.guest.run("read", snp.SHARED_MAP + page(0))
        records = vm.records()
        (record,) = records[records["kind"] == Kind.CONVERT]
        assert record["flags"] & FLAG_IMPLICIT
        assert not record["flags"] & FLAG_WALK
