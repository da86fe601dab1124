# SPDX-License-Identifier: GPL-2.0-or-later
"""Every leaf of TDCALL: what it answers, and with which status it refuses."""

import hashlib
import struct

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import AREA, page
from tests.qemu.conftest import Boot
from tests.qemu.tdx import (
    ALREADY_ACCEPTED,
    CPUIDVE_SET,
    FIELD_ID_INCORRECT,
    FIELD_NOT_WRITABLE,
    FIELD_VALUE_NOT_VALID,
    INFO,
    NO_VALID_VE_INFO,
    OPERAND_INVALID,
    PAGE_ACCEPT,
    PAGE_ATTR_RD,
    PAGE_ATTR_WR,
    R8,
    RAX,
    RCX,
    RDX,
    REPORT,
    RTMR_EXTEND,
    SHARED,
    SIZE_MISMATCH,
    SUCCESS,
    SYS_RD,
    SYS_RDALL,
    VECTOR_VE,
    VEINFO_GET,
    VERIFYREPORT,
    VM_RD,
    VM_WR,
    VMCALL,
    VP_ENTER,
    VP_INVEPT,
    VP_INVGLA,
    VP_RD,
    VP_WR,
    accept,
    map_gpa,
    tdcall,
)  # fmt: skip


pytestmark = pytest.mark.qemu

MIB2 = 2 << 20
ATTRIBUTES, XFAM = 0x1110_0003_0000_0000, 0x1110_0003_0000_0001
NOTIFY_ENABLES, CONFIG_FLAGS = 0x9100_0000_0000_0010, 0x1110_0003_0000_0016
TD_CTLS, TOPOLOGY_ENUM = 0x1110_0003_0000_0017, 0x9100_0000_0000_0019
TDX_FEATURES0 = 0x0A00_0003_0000_0008
NO_FIELD = (1 << 64) - 1
SEPT_VE_DISABLE = 1 << 28
REPORT_GPA, DATA_GPA = page(16), page(17)


@pytest.mark.parametrize(
    ("leaf", "registers", "status"),
    [
        (13, {}, OPERAND_INVALID | RAX),
        (SYS_RDALL, {"rdx": page(0) + 8, "r8": NO_FIELD}, OPERAND_INVALID | RDX),
        (SYS_RDALL, {"rdx": SHARED | page(0), "r8": NO_FIELD}, OPERAND_INVALID | RDX),
        (SYS_RDALL, {"rdx": page(0), "r8": 1}, FIELD_ID_INCORRECT),
        (18, {}, OPERAND_INVALID | RAX),
        (VERIFYREPORT, {"rcx": page(0)}, OPERAND_INVALID | RAX),
        (28, {}, OPERAND_INVALID | RAX),
        (PAGE_ATTR_RD, {"rcx": SHARED | page(0)}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_RD, {"rcx": 1 << 48 | page(0)}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_WR, {"rcx": page(0), "rdx": 1}, OPERAND_INVALID | RDX),
        (PAGE_ATTR_WR, {"rcx": page(0), "rdx": 1 << 63}, OPERAND_INVALID | RDX),
        (PAGE_ATTR_WR, {"rcx": page(0), "r8": 1 << 31}, OPERAND_INVALID | R8),
        (PAGE_ATTR_WR, {"rcx": page(0), "rdx": 1 << 32, "r8": 1}, OPERAND_INVALID | R8),
        (PAGE_ATTR_WR, {"rcx": page(0) | 3}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_WR, {"rcx": page(0) | 8}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_WR, {"rcx": page(1) | 1}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_WR, {"rcx": SHARED | page(0)}, OPERAND_INVALID | RCX),
        (PAGE_ATTR_WR, {"rcx": page(0)}, SUCCESS),
        (VP_ENTER, {"rcx": 1, "rdx": page(0) + 8}, OPERAND_INVALID | RDX),
        (VP_ENTER, {"rcx": 1, "rdx": page(0)}, OPERAND_INVALID | RCX),
        (VP_INVEPT, {"rcx": 2}, OPERAND_INVALID | RCX),
        (VP_INVEPT, {}, SUCCESS),
        (VP_INVGLA, {"rcx": 1, "rdx": page(0)}, OPERAND_INVALID | RCX),
        (0xFFFF, {}, OPERAND_INVALID | RAX),
        (INFO | 1 << 16, {}, OPERAND_INVALID | RAX),
        (VM_RD | 2 << 16, {}, OPERAND_INVALID | RAX),
        (INFO | 1 << 24, {}, OPERAND_INVALID | RAX),
        (INFO | 1 << 63, {}, OPERAND_INVALID | RAX),
        (VMCALL, {"rcx": 1 << 0}, OPERAND_INVALID | RCX),
        (VMCALL, {"rcx": 1 << 1}, OPERAND_INVALID | RCX),
        (VMCALL, {"rcx": 1 << 4}, OPERAND_INVALID | RCX),
        (VMCALL, {"rcx": 1 << 32}, OPERAND_INVALID | RCX),
        (RTMR_EXTEND, {"rcx": page(0) + 8}, OPERAND_INVALID | RCX),
        (RTMR_EXTEND, {"rcx": SHARED | page(0)}, OPERAND_INVALID | RCX),
        (RTMR_EXTEND, {"rcx": SHARED << 1}, OPERAND_INVALID | RCX),
        (RTMR_EXTEND, {"rcx": page(0), "rdx": 4}, OPERAND_INVALID | RDX),
        (VEINFO_GET, {}, NO_VALID_VE_INFO),
        (REPORT, {"rcx": page(0) + 64, "rdx": page(1)}, OPERAND_INVALID | RCX),
        (REPORT, {"rcx": page(0), "rdx": page(1) + 8}, OPERAND_INVALID | RDX),
        (REPORT, {"rcx": page(0), "rdx": page(1), "r8": 1}, OPERAND_INVALID | R8),
        (CPUIDVE_SET, {"rcx": 4}, OPERAND_INVALID | RCX),
        (CPUIDVE_SET, {"rcx": 0}, SUCCESS),
        (VM_RD, {"rdx": ATTRIBUTES, "rcx": 1}, OPERAND_INVALID | RCX),
        (VM_RD, {"rdx": 0x1110_0003_0000_00FF}, FIELD_ID_INCORRECT),
        (VM_WR, {"rdx": ATTRIBUTES, "r8": 1, "r9": 1}, FIELD_NOT_WRITABLE),
        (VM_WR, {"rdx": NOTIFY_ENABLES, "r8": 2, "r9": 2}, FIELD_NOT_WRITABLE),
        (VM_WR, {"rdx": NOTIFY_ENABLES, "r9": 2**64 - 1}, SUCCESS),
        (VM_WR, {"rdx": TD_CTLS, "r8": 0, "r9": 1}, FIELD_VALUE_NOT_VALID),
        (VM_WR, {"rdx": TD_CTLS, "r8": 8, "r9": 8}, FIELD_VALUE_NOT_VALID),
        (VP_RD, {"rdx": 1}, FIELD_ID_INCORRECT),
        (VP_WR, {"rdx": 1}, FIELD_ID_INCORRECT),
        (SYS_RD, {"rdx": 1}, FIELD_ID_INCORRECT),
        (SYS_RD, {"rdx": TDX_FEATURES0}, SUCCESS),
        (PAGE_ACCEPT, {"rcx": page(0) | 2}, OPERAND_INVALID | RCX),
        (PAGE_ACCEPT, {"rcx": page(0) | 3}, OPERAND_INVALID | RCX),
        (PAGE_ACCEPT, {"rcx": page(0) | 8}, OPERAND_INVALID | RCX),
        (PAGE_ACCEPT, {"rcx": page(1) | 1}, OPERAND_INVALID | RCX),
        (PAGE_ACCEPT, {"rcx": SHARED | page(0)}, OPERAND_INVALID | RCX),
        (PAGE_ACCEPT, {"rcx": 1 << 48 | page(0)}, OPERAND_INVALID | RCX),
    ],
    ids=str,
)
async def test_status(boot: Boot, leaf: int, registers: dict[str, int], status: int) -> None:
    async with boot(coco="tdx") as vm:
        assert tdcall(vm.guest, leaf, **registers).rax == status


async def test_info(boot: Boot) -> None:
    async with boot(coco="tdx", cpus=2) as vm:
        info = tdcall(vm.guest, INFO)
        assert (info.rax, info.rcx, info.rdx) == (SUCCESS, 48, SEPT_VE_DISABLE)
        assert (info.r8, info.r9, info.r10, info.r11) == (2 << 32 | 2, 0, 1, 0)


async def test_a_td_that_the_host_may_look_into_is_a_debug_td(boot: Boot) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        assert tdcall(vm.guest, INFO).rdx == SEPT_VE_DISABLE | 1
    async with boot(coco="tdx", guest_options=("attributes=1",)) as vm:
        assert (await vm.info())["debuggable"] is True


async def test_info_of_a_wide_guest(boot: Boot) -> None:
    async with boot(coco="tdx", guest_options=("gpaw=52", "sept-ve-disable=off")) as vm:
        info = tdcall(vm.guest, INFO)
        assert (info.rcx, info.rdx) == (52, 0)
        assert tdcall(vm.guest, VM_RD, rdx=CONFIG_FLAGS).r8 == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (ATTRIBUTES, SEPT_VE_DISABLE), (XFAM, 0x207), (NOTIFY_ENABLES, 0), (CONFIG_FLAGS, 0),
        (TD_CTLS, 1), (TOPOLOGY_ENUM, 0),
    ],
)  # fmt: skip
async def test_fields(boot: Boot, field: int, value: int) -> None:
    async with boot(coco="tdx") as vm:
        for version in (0, 1 << 16):
            answer = tdcall(vm.guest, VM_RD | version, rdx=field)
            assert (answer.rax, answer.r8) == (SUCCESS, value)


async def test_a_write_returns_the_old_value(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        assert tdcall(vm.guest, VM_WR, rdx=NOTIFY_ENABLES, r8=1, r9=1).r8 == 0
        assert tdcall(vm.guest, VM_WR, rdx=NOTIFY_ENABLES, r8=0, r9=1).r8 == 1
        assert tdcall(vm.guest, VM_RD, rdx=NOTIFY_ENABLES).r8 == 0


@pytest.mark.parametrize("first", [NO_FIELD, TDX_FEATURES0])
async def test_the_list_of_all_fields_is_what_each_field_says(boot: Boot, first: int) -> None:
    async with boot(coco="tdx") as vm:
        value = tdcall(vm.guest, SYS_RD, rdx=TDX_FEATURES0).r8
        vm.guest.done("write", DATA_GPA + 24, 0x5EC)
        answer = tdcall(vm.guest, SYS_RDALL, rdx=DATA_GPA, r8=first)
        assert (answer.rax, answer.r8) == (SUCCESS, NO_FIELD)
        size, sequences, field, listed, behind = struct.unpack(
            "<HHxxxxQQQ", vm.guest.read_bytes(DATA_GPA, 32)
        )
        assert (size, sequences) == (24, 1)
        assert (field, listed, behind) == (TDX_FEATURES0, value, 0x5EC)


async def test_a_page_that_the_host_takes_before_its_first_use_has_to_be_accepted(
    boot: Boot,
) -> None:
    async with boot(coco="tdx", guest_options=("sept-ve-disable=off",)) as vm:
        tdcall(vm.guest, INFO)
        assert vm.states(page(0), page(1)) == [PageState.PENDING] * 2
        await vm.change("discard", page(0))
        assert vm.guest.fault("read", page(0)).vector == VECTOR_VE
        assert accept(vm.guest, page(0)) == SUCCESS
        assert vm.guest.value("read", page(0)) == 0
        # The control: its neighbour is still what the launch has placed.
        assert vm.guest.value("read", page(1)) == 0


async def test_what_the_launch_placed_is_accepted(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        assert accept(vm.guest, page(0)) == ALREADY_ACCEPTED
        vm.guest.done("write", page(0), 0x5EC)
        assert accept(vm.guest, page(0)) == ALREADY_ACCEPTED
        assert vm.guest.value("read", page(0)) == 0x5EC
        assert accept(vm.guest, AREA, 1) == SIZE_MISMATCH | 1


async def test_acceptance_of_4_kib(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("write", page(0), 0x5EC)
        assert map_gpa(vm.guest, SHARED | page(0), PAGE_SIZE) == 0
        assert map_gpa(vm.guest, page(0), PAGE_SIZE) == 0
        assert vm.state(page(0)) is PageState.PENDING
        await vm.events()
        assert accept(vm.guest, page(0)) == SUCCESS
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.rip) == (Kind.ACCEPT, page(0), "probe_tdcall_at")
        assert vm.guest.value("read", page(0)) == 0
        assert accept(vm.guest, page(0)) == ALREADY_ACCEPTED


async def test_acceptance_of_2_mib(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        map_gpa(vm.guest, SHARED | AREA, MIB2)
        map_gpa(vm.guest, AREA, MIB2)
        assert accept(vm.guest, AREA, 1) == SUCCESS
        assert vm.states(AREA, AREA + MIB2 - PAGE_SIZE) == [PageState.PRIVATE] * 2
        vm.assert_storage()
        assert accept(vm.guest, AREA, 1) == ALREADY_ACCEPTED | 1
        assert accept(vm.guest, page(3)) == ALREADY_ACCEPTED | 1
        map_gpa(vm.guest, SHARED | page(3), PAGE_SIZE)
        assert accept(vm.guest, AREA, 1) == SIZE_MISMATCH | 1
        assert accept(vm.guest, page(4)) == ALREADY_ACCEPTED
        map_gpa(vm.guest, page(3), PAGE_SIZE)
        assert accept(vm.guest, AREA, 1) == SIZE_MISMATCH | 1
        assert accept(vm.guest, page(3)) == SUCCESS


async def test_acceptance_page_by_page_is_no_large_page(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        map_gpa(vm.guest, SHARED | AREA, MIB2)
        map_gpa(vm.guest, AREA, MIB2)
        for index in range(512):
            assert accept(vm.guest, page(index)) == SUCCESS
        assert accept(vm.guest, AREA, 1) == SIZE_MISMATCH | 1


async def test_acceptance_of_1_gib(boot: Boot) -> None:
    gib = 1 << 30
    options = {"guest_options": ("accept-1g=on",), "memory_bytes": 6 << 30}
    async with boot(coco="tdx", **options) as vm:
        start = 5 * gib
        assert accept(vm.guest, start, 2) == SIZE_MISMATCH | 2
        map_gpa(vm.guest, SHARED | start, gib)
        map_gpa(vm.guest, start, gib)
        assert accept(vm.guest, start, 2) == SUCCESS
        assert accept(vm.guest, start, 2) == ALREADY_ACCEPTED | 2
        assert accept(vm.guest, start + MIB2, 1) == ALREADY_ACCEPTED | 2
        assert accept(vm.guest, start + 3 * PAGE_SIZE) == ALREADY_ACCEPTED | 2


async def test_how_a_page_is_mapped(boot: Boot) -> None:
    pending = 1 << 62
    async with boot(coco="tdx") as vm:

        def mapping(gpa: int) -> int:
            answer = tdcall(vm.guest, PAGE_ATTR_RD, rcx=gpa, rdx=5)
            assert (answer.rax, answer.rdx) == (SUCCESS, 0)
            return answer.rcx

        assert mapping(page(0) + 8) == page(0)  # the launch has placed it
        map_gpa(vm.guest, SHARED | AREA, MIB2)
        map_gpa(vm.guest, AREA, MIB2)
        assert mapping(page(3)) == page(3) | pending
        assert accept(vm.guest, AREA, 1) == SUCCESS
        assert mapping(page(3)) == AREA | 1
        assert tdcall(vm.guest, PAGE_ATTR_WR, rcx=AREA | 1).rcx == AREA | 1
        mismatch = tdcall(vm.guest, PAGE_ATTR_WR, rcx=page(3))
        assert (mismatch.rax, mismatch.rcx) == (SIZE_MISMATCH | 1, 0)


def rtmr(report: bytes, index: int) -> bytes:
    """Return a register's value in a TDREPORT."""
    return report[512 + 16 + 48 * (4 + index) :][:48]


@pytest.mark.fault("F16")
async def test_report_and_measurement_registers(boot: Boot) -> None:
    owner = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"
    async with boot(coco="tdx", guest_options=(f"mrowner={owner}",)) as vm:
        nonce = bytes(range(64))
        vm.guest.write_bytes(DATA_GPA, nonce)
        digest = hashlib.sha384(b"event").digest()
        vm.guest.write_bytes(page(18), digest)
        assert tdcall(vm.guest, RTMR_EXTEND, rcx=page(18), rdx=2).rax == SUCCESS
        assert tdcall(vm.guest, REPORT, rcx=REPORT_GPA, rdx=DATA_GPA).rax == SUCCESS
        report = vm.guest.read_bytes(REPORT_GPA, 1024)
    assert report[:4] == b"\x81\0\0\0"
    assert report[128:192] == nonce
    assert report[224:256].rstrip(b"\0") == b"cvmlab: emulated, not authentic"
    assert report[80:128] == hashlib.sha384(report[512:]).digest()
    assert report[32:80] == hashlib.sha384(report[256:495]).digest()
    assert report[495:512] == bytes(17)
    assert int.from_bytes(report[512:520], "little") == SEPT_VE_DISABLE
    assert report[512 + 16 + 48 * 2 :][:48] == b"A" * 48
    assert rtmr(report, 2) == hashlib.sha384(bytes(48) + digest).digest()
    assert rtmr(report, 0) == bytes(48)
