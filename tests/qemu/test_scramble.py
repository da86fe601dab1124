# SPDX-License-Identifier: GPL-2.0-or-later
"""A page that changes sides reads as noise there, as if encrypted, and costs nothing until read."""

import secrets

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.states import STALE_FLAG
from tests.qemu.bare import BareGuest
from tests.qemu.bare_machine import EDU_BUFFER, BareMachine, page, stored_pages
from tests.qemu.conftest import Boot
from tests.qemu.snp import SHARED_MAP, SNP, pvalidate, to_private, to_shared
from tests.qemu.test_bare_hypercall import TO_PRIVATE, TO_SHARED, map_range


pytestmark = pytest.mark.qemu

SIZE = 256
ROUNDS = 50
SEV_STATUS = 0xC0010131  # reading it tells the host that the guest knows what the C-bit is


def is_noise(data: bytes) -> bool:
    """No two words are equal, and none is plain zeros: what no memory in use looks like."""
    words = {data[at : at + 8] for at in range(0, len(data), 8)}
    return len(words) == len(data) // 8 and bytes(8) not in words


def is_stale(vm: BareMachine, gpa: int) -> bool:
    return bool(vm.table.states()[gpa // PAGE_SIZE] & STALE_FLAG)


def share(guest: BareGuest, *gpas: int) -> None:
    for gpa in gpas:
        to_shared(guest, gpa)


def take_back(guest: BareGuest, *gpas: int) -> None:
    for gpa in gpas:
        to_private(guest, gpa)
        assert pvalidate(guest, gpa) == (0, False)


def write_with_c_bit(guest: BareGuest, data: bytes) -> None:
    """Write the first page as a guest that knows the bit, and can leave it out by SHARED_MAP."""
    guest.done("map-shared", 0)
    guest.value("rdmsr", SEV_STATUS)
    guest.write_bytes(page(0), data)


async def test_a_page_reads_as_noise_on_either_side(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        secret, told = secrets.token_bytes(SIZE), secrets.token_bytes(SIZE)
        vm.guest.write_bytes(page(0), secret)
        share(vm.guest, page(0))
        shared = vm.guest.read_bytes(SHARED_MAP + page(0), SIZE)
        assert is_noise(shared)
        assert shared != secret
        vm.guest.write_bytes(SHARED_MAP + page(0), told)
        assert vm.guest.read_bytes(SHARED_MAP + page(0), SIZE) == told
        take_back(vm.guest, page(0))
        private = vm.guest.read_bytes(page(0), SIZE)
        assert is_noise(private)
        assert private not in (secret, told, shared)
        assert vm.guest.read_bytes(page(0), SIZE) == private
        assert vm.guest.read_bytes(page(1), SIZE) == bytes(SIZE)  # control: it stayed


@pytest.mark.parametrize("coco", ["sev", "sev-es"])
async def test_a_wrong_c_bit_finds_noise(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        write_with_c_bit(vm.guest, bytes(SIZE))
        assert is_noise(vm.guest.read_bytes(SHARED_MAP + page(0), SIZE))
        assert is_noise(vm.guest.read_bytes(page(0), SIZE))


@pytest.mark.parametrize("coco", ["sev", "sev-es"])
async def test_what_the_guest_tells_of_reads_as_noise(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        write_with_c_bit(vm.guest, bytes(SIZE))
        for attributes, where in ((TO_SHARED, SHARED_MAP), (TO_PRIVATE, 0)):
            assert map_range(vm, page(0), 1, attributes, "vmmcall") == 0
            assert is_noise(vm.guest.read_bytes(where + page(0), SIZE))
        assert (await vm.counters())["implicit-conversions"] == 0


async def test_control_without_encryption_it_reads_as_zeros(boot: Boot) -> None:
    async with boot(coco="sw-protected") as vm:
        vm.guest.done("write", page(0), 1)
        await vm.convert("shared", page(0))
        assert not is_stale(vm, page(0))
        assert vm.guest.read_bytes(page(0), SIZE) == bytes(SIZE)


async def test_a_page_that_nobody_reaches_has_storage_and_no_data(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        pages = [page(index) for index in range(8)]
        share(vm.guest, *pages)
        assert data_pages(vm, vm.files.fds.shared, pages) == []
        vm.assert_storage()
        vm.guest.value("read", SHARED_MAP + page(3))
        vm.guest.done("edu-dma", page(5), EDU_BUFFER, 8)
        assert data_pages(vm, vm.files.fds.shared, pages) == [page(3), page(5)]
        assert [gpa for gpa in pages if not is_stale(vm, gpa)] == [page(3), page(5)]
        take_back(vm.guest, *pages)
        assert data_pages(vm, vm.files.fds.private, pages) == []
        assert all(is_stale(vm, gpa) for gpa in pages)
        vm.guest.value("read", page(6))
        assert data_pages(vm, vm.files.fds.private, pages) == [page(6)]


def data_pages(vm: BareMachine, fd: int | None, gpas: list[int]) -> list[int]:
    assert fd is not None
    stored = set(stored_pages(fd))
    return [gpa for gpa in gpas if gpa // PAGE_SIZE in stored]


async def test_a_device_that_is_first_finds_it_too_and_loses_nothing(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        share(vm.guest, page(0), page(1), page(2))
        vm.guest.done("edu-dma", page(0), EDU_BUFFER, SIZE)
        vm.guest.done("edu-dma", EDU_BUFFER, page(1) + 64, SIZE)
        noise = vm.guest.read_bytes(SHARED_MAP + page(0), SIZE)
        assert is_noise(noise)
        assert vm.guest.read_bytes(SHARED_MAP + page(1) + 64, SIZE) == noise
        around = vm.guest.read_bytes(SHARED_MAP + page(1), 64)
        assert is_noise(around)
        assert around not in noise


async def test_a_device_gets_each_page_of_a_large_transfer_filled(boot: Boot) -> None:
    async with boot(**SNP) as vm:
        await vm.convert("shared", page(0), count=512)  # uniform, so passed in large pieces
        start = page(8) - SIZE // 2
        vm.guest.done("edu-dma", start, EDU_BUFFER, SIZE)
        vm.guest.done("edu-dma", EDU_BUFFER, page(16), SIZE)
        vm.guest.done("map-shared", 0)
        assert is_noise(vm.guest.read_bytes(SHARED_MAP + page(16), SIZE))
        assert not is_stale(vm, page(8))
        assert is_stale(vm, page(9))


async def test_what_is_kept_on_purpose_is_kept(boot: Boot) -> None:
    async with boot(**SNP, debuggable=True) as vm:
        secret = secrets.token_bytes(SIZE)
        vm.guest.write_bytes(page(0), secret)
        vm.guest.done("map-shared", 0)
        await vm.convert("shared", page(0), content="preserve")
        assert vm.guest.read_bytes(SHARED_MAP + page(0), SIZE) == secret


async def test_two_cpus_that_are_first_lose_no_store(boot: Boot) -> None:
    async with boot(coco="sev-es", cpus=2) as vm:
        vm.guest.value("rdmsr", SEV_STATUS)
        vm.guest.start_counting(page(0))
        for _ in range(ROUNDS):
            await vm.convert("shared", page(0))
            assert is_noise(vm.guest.read_bytes(page(0) + 64, 64))
        result = vm.guest.stop_counting()
        assert result.lost <= ROUNDS
        assert result.faults == 0
