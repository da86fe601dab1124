# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts are exact: after resets, discards, requests that hurt themselves, and many changes elsewhere.

Each test ends with the check that every bare machine ends with: journal, table, counters and storage
of the files tell the same.
"""

import asyncio
import struct
from pathlib import Path

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu import dma
from tests.qemu.bare_machine import EDU, EDU_BUFFER, BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import SHARED_MAP, SNP, TO_PRIVATE, TO_SHARED, Ghcb, psc_entry, wait_stop


pytestmark = pytest.mark.qemu

SPLIT = ["sw-protected", "tdx", "sev", "sev-es", "sev-snp"]
SIZE = 32
MIB = 1 << 20
PENDING, PRIVATE, SHARED = PageState.PENDING, PageState.PRIVATE, PageState.SHARED
STOP_TIMEOUT_S = 20
GENERIC_ERROR = 0x100  # of a page state change, in the upper half of SW_EXITINFO2


@pytest.mark.fault("A1")
@pytest.mark.parametrize("coco", SPLIT)
async def test_a_reset_leaves_no_storage_that_the_table_does_not_know(
    boot: Boot, coco: str
) -> None:
    async with boot(coco=coco) as vm:
        for _ in range(2):
            vm.guest.run("touch", page(0), 8)
            await vm.qmp.execute("system_reset")
            vm.guest.wait_hello()
            vm.assert_storage()
            assert vm.states(page(0), page(7)) == [PENDING, PENDING]


LEGACY = "iommu_platform=off,disable-legacy=off"
DATA_PAGES = 8
WORK, DATA = page(16), page(24)


@pytest.mark.fault("A2")
async def test_a_reset_waits_for_dma_in_flight(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\x5a" * MIB)
    options = {
        "extra": ("-drive", f"if=none,id=disk,format=raw,file={disk},throttling.iops-total=1"),
        "devices": (f"virtio-blk-pci,drive=disk,addr=8.1,{LEGACY}",),
    }
    async with boot(coco="sw-protected", **options) as vm:
        for _ in range(3):
            await vm.convert("shared", page(0), count=64, content="discard")
            queue = dma.legacy_queue(dma.PciFunction(vm.guest, 8), 0xE000, page(0))
            for number in range(3):  # the first is done at once, the others are to wait
                dma.store(vm.guest, WORK + 256 * number, struct.pack("<IIQ", 0, 0, 0))
                queue.post(read_of(WORK + 256 * number, DATA + number * DATA_PAGES * PAGE_SIZE))
            await vm.qmp.execute("system_reset")
            vm.guest.wait_hello()
            vm.assert_storage()
        assert (await vm.counters())["host-faults"] == 0


def read_of(work: int, data: int) -> list[dma.Buffer]:
    size = DATA_PAGES * PAGE_SIZE
    return [dma.Buffer(work, 16), dma.Buffer(data, size, True), dma.Buffer(work + 64, 1, True)]


@pytest.mark.fault("A3")
@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
async def test_firmware_does_not_use_a_page_that_was_taken_from_it(boot: Boot, coco: str) -> None:
    """SeaBIOS has its stack below 640 KiB; all of memory is in the launch image."""
    taken_pages = 0x9F
    async with boot(coco=coco, cont=False) as vm:
        await vm.change("discard", 0, count=taken_pages)
        with vm.qmp.events() as stream:
            await vm.qmp.execute("cont")
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while (await anext(stream)).name != "STOP":
                    pass
        (fault,) = [e for e in await vm.events() if e.kind is Kind.GUEST_FAULT]
        assert (fault.gpa < taken_pages * PAGE_SIZE, fault.before) == (True, PENDING)
        assert vm.state(fault.gpa) is PENDING
        vm.assert_storage()


@pytest.mark.fault("A3")
async def test_nor_does_a_guest_that_has_not_spoken_yet(boot: Boot) -> None:
    async with boot(coco="tdx") as vm:
        vm.guest.done("write", page(0), 0x5EC)
        await vm.change("discard", page(0))
        await wait_stop(vm, "read", page(0))
        assert vm.state(page(0)) is PENDING
        vm.assert_storage()
        await vm.change("accept", page(0))
        await vm.qmp.execute("cont")
        assert vm.guest.finish() == (0,)


@pytest.mark.fault("A4")
@pytest.mark.parametrize("large", [False, True])
async def test_a_list_that_would_take_its_own_page_is_refused_where_the_guest_sees_it(
    boot: Boot, large: bool
) -> None:
    async with boot(**SNP) as vm:
        ghcb = Ghcb(vm.guest, page(1024))
        ghcb.change_state(psc_entry(page(0), TO_SHARED))
        taken = psc_entry(ghcb.gpa, TO_PRIVATE, large=large)
        answer = ghcb.change_state(psc_entry(page(0), TO_PRIVATE), taken)
        assert answer.info2 >> 32 == GENERIC_ERROR
        assert ghcb.cursor() == (1, 1)
        assert vm.states(page(0), ghcb.gpa) == [PENDING, SHARED]
        vm.assert_storage()
        ghcb.change_state(psc_entry(page(0), TO_SHARED))
        vm.guest.done("write", SHARED_MAP + page(0), 1)


async def read_by_device(vm: BareMachine, gpa: int) -> None:
    vm.guest.done("edu-dma", gpa, EDU_BUFFER, SIZE)


async def faults(vm: BareMachine) -> tuple[int, int]:
    """Return host faults and the accesses in which they came, since the start."""
    counters = await vm.counters()
    (edu,) = [a for a in (await vm.info())["actors"] if a["id"] == EDU]
    assert edu["faults"] == counters["host-faults"]
    return counters["host-faults"], counters["host-accesses"]


@pytest.mark.fault("A5")
@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
class TestWhatIsOneHostFault:
    async def test_other_pages_make_no_difference(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("write", page(0), 1)
            for number in range(4):
                await read_by_device(vm, page(0))
                await vm.convert("shared", page(1 + number))
                vm.guest.done("write", page(8 + number), 1)
            assert (await faults(vm))[0] == 1
            recorded = [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]
            assert [e.gpa for e in recorded] == [page(0)]

    async def test_each_page_and_direction_counts(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            for number in range(3):
                await read_by_device(vm, page(number))
                vm.guest.done("edu-dma", EDU_BUFFER, page(number), SIZE)
            assert (await faults(vm))[0] == 6

    async def test_a_change_of_the_page_itself_makes_it_new(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await read_by_device(vm, page(0))
            vm.guest.done("write", page(0), 1)  # accepts it
            await read_by_device(vm, page(0))
            assert (await faults(vm))[0] == 2
            await vm.convert("shared", page(0))
            await vm.convert("private", page(0))
            vm.guest.done("write", page(0), 1)
            await read_by_device(vm, page(0))
            assert (await faults(vm))[0] == 3
            await vm.change("discard", page(0))
            await read_by_device(vm, page(0))
            await read_by_device(vm, page(0))
            assert (await faults(vm))[0] == 4

    async def test_a_reset_begins_anew(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await read_by_device(vm, page(0))
            await vm.qmp.execute("system_reset")
            vm.guest.wait_hello()
            await read_by_device(vm, page(0))
            assert (await faults(vm))[0] == 2


@pytest.mark.fault("A6")
@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
async def test_an_allowed_access_is_no_fault(boot: Boot, tmp_path: Path, coco: str) -> None:
    async with boot(coco=coco, debuggable=True) as vm:
        vm.guest.done("write", page(0), 0x5EC)
        await vm.events()
        arguments = {"val": page(0), "size": 8, "filename": str(tmp_path / "seen")}
        await vm.qmp.execute("pmemsave", arguments)
        assert (tmp_path / "seen").read_bytes() == (0x5EC).to_bytes(8, "little")
        (event,) = [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]
        assert event.verdict is Verdict.ALLOW
        counters = await vm.counters()
        assert (counters["host-faults"], counters["host-accesses"]) == (0, 0)
