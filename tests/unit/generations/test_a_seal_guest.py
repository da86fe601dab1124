# SPDX-License-Identifier: GPL-2.0-or-later
"""F_SEAL_GUEST: seals, what they forbid, the owner and its callbacks.

Longer than 400 lines: one table of the catalogue, A01 to AQ6, whose entries share their fixtures.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.open_file import Fd, OpenMode
from cvmlab.generations.seal_guest import Seal, SealGuestFile, SealKernel, Vma, Writeback
from tests.unit.generations.sealing import GUEST, Owner, Sealed
from tests.unit.generations.support import KEEP, M2, PG, PUNCH, refused


@pytest.fixture
def sealed() -> Iterator[Sealed]:
    made = Sealed()
    yield made
    made.fd.close()


@pytest.fixture
def kernel() -> SealKernel:
    return SealKernel()


@pytest.fixture
def plain(kernel: SealKernel) -> Iterator[Fd]:
    fd = kernel.memfd_create()
    yield fd
    fd.close()


def seals_of(fd: Fd) -> int:
    inode = fd.inode
    assert isinstance(inode, SealGuestFile)
    return inode.seals


def map_of(fd: Fd, *, writable: bool = True, shared: bool = True) -> Vma:
    inode = fd.inode
    assert isinstance(inode, SealGuestFile)
    return inode.map(Vma(writable, shared))


def test_a01_a_read_only_descriptor_is_refused_first(kernel: SealKernel, plain: Fd) -> None:
    reader = kernel.reopen(plain, OpenMode.READ)
    for seals in (GUEST, 0, 0x40):
        with refused("EPERM", "A01"):
            kernel.add_seals(reader, seals)
    reader.close()


def test_a02_an_unknown_seal_is_refused_second(kernel: SealKernel, plain: Fd) -> None:
    unsealable = kernel.memfd_create(0)
    for fd in (plain, unsealable):
        with refused("EINVAL", "A02"):
            kernel.add_seals(fd, 0x40)
    unsealable.close()


def test_a03_a_file_without_seals_is_refused_third(kernel: SealKernel, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "ordinary", os.O_RDWR | os.O_CREAT)
    with refused("EINVAL", "A03"):
        kernel.add_seals(fd, GUEST)
    os.close(fd)


@pytest.mark.parametrize("flags", [0, 2], ids=["A04-made without", "A04-sealed"])
def test_a_file_sealed_against_sealing_is_refused(kernel: SealKernel, flags: int) -> None:
    fd = kernel.memfd_create(flags)
    if flags:
        kernel.add_seals(fd, Seal.SEAL)
    assert seals_of(fd) == Seal.SEAL
    with refused("EPERM", "A04"):
        kernel.add_seals(fd, GUEST)
    fd.close()


def test_a05_the_write_test_comes_before_the_guest_test(kernel: SealKernel, plain: Fd) -> None:
    map_of(plain)
    with refused("EBUSY", "A05"):
        kernel.add_seals(plain, Seal.WRITE | GUEST)
    assert seals_of(plain) == 0


@pytest.mark.parametrize(
    ("writable", "shared"),
    [
        pytest.param(True, True, id="A06-writable shared"),
        pytest.param(False, True, id="A06-nothing"),
        pytest.param(True, False, id="A06-private"),
    ],
)
def test_any_mapping_refuses_the_guest_seal(
    kernel: SealKernel, plain: Fd, *, writable: bool, shared: bool
) -> None:
    vma = map_of(plain, writable=writable, shared=shared)
    plain.truncate(PG)
    with refused("EBUSY", "A06"):
        kernel.add_seals(plain, GUEST)
    inode = plain.inode
    assert isinstance(inode, SealGuestFile)
    inode.unmap(vma)
    with refused("EBUSY", "A07"):
        kernel.add_seals(plain, GUEST)
    plain.truncate(0)
    kernel.add_seals(plain, GUEST)


def test_a07_even_one_byte_is_too_much(kernel: SealKernel, plain: Fd) -> None:
    plain.write(0, b"x")
    with refused("EBUSY", "A07"):
        kernel.add_seals(plain, GUEST)


def test_a08_the_seal_stays_and_belongs_to_the_inode(sealed: Sealed) -> None:
    copy = sealed.fd.dup()
    assert seals_of(copy) == GUEST
    sealed.kernel.add_seals(copy, 0)
    assert seals_of(sealed.fd) == GUEST
    copy.close()


@pytest.mark.parametrize(
    ("extra", "offset"),
    [
        pytest.param(0, 0, id="A09-inside"),
        pytest.param(0, 9 * PG, id="A09-beyond"),
        pytest.param(Seal.WRITE, 0, id="A09-WRITE too"),
        pytest.param(Seal.GROW, 9 * PG, id="A09-GROW too"),
    ],
)
def test_writing_is_refused(sealed: Sealed, extra: int, offset: int) -> None:
    sealed.fd.truncate(PG)
    sealed.kernel.add_seals(sealed.fd, extra)
    with refused("EPERM", "A09"):
        sealed.fd.write(offset, b"x")


@pytest.mark.parametrize(
    ("pages", "offset", "entry"),
    [
        pytest.param(0, 0, "A10", id="A10-empty file"),
        pytest.param(2, 0, "A10", id="A10-start"),
        pytest.param(2, 2 * PG, "A10", id="A10-exactly the end"),
        pytest.param(2, 3 * PG - 1, "A10", id="A10-page of the end"),
        pytest.param(0, PG, "", id="A11-empty file"),
        pytest.param(2, 3 * PG, "", id="A11-beyond"),
    ],
)
def test_reading_by_position(sealed: Sealed, pages: int, offset: int, entry: str) -> None:
    sealed.fd.truncate(pages * PG)
    if entry:
        with refused("EPERM", entry):
            sealed.fd.read(offset, 1)
    else:
        assert sealed.fd.read(offset, 1) == b""


@pytest.mark.parametrize("shared", [True, False], ids=["A12-shared", "A12-private"])
@pytest.mark.parametrize("extra", [0, Seal.FUTURE_WRITE])
def test_no_mapping_is_possible(sealed: Sealed, extra: int, *, shared: bool) -> None:
    sealed.kernel.add_seals(sealed.fd, extra)
    for writable in (True, False):
        with refused("EPERM", "A12"):
            map_of(sealed.fd, writable=writable, shared=shared)


def test_a13_size_seals_come_before_alignment(sealed: Sealed) -> None:
    sealed.fd.truncate(2 * PG)
    with refused("EINVAL", "A13"):
        sealed.fd.truncate(PG + 1)
    sealed.kernel.add_seals(sealed.fd, Seal.SHRINK | Seal.GROW)
    for size in (PG + 1, 5 * PG + 1):
        with refused("EPERM", "A13"):
            sealed.fd.truncate(size)


def test_a14_the_size_changes_again_and_again(sealed: Sealed) -> None:
    owner = sealed.register()
    for pages in (4, 2, 8, 8):
        sealed.fd.truncate(pages * PG)
    assert owner.heard == []  # holes are nobody's loss
    sealed.fd.fallocate(0, 0, 8 * PG)
    owner.heard.clear()
    sealed.fd.truncate(6 * PG)
    assert owner.heard == [("invalidate", "vm", 6, 7), ("invalidate", "vm", 7, 8)]
    assert sealed.file.storage.usage.host_bytes == 6 * PG


@pytest.mark.parametrize(
    ("offset", "length"), [(1, PG), (0, PG + 1)], ids=["A15-offset", "A15-length"]
)
def test_an_unaligned_punch_is_refused(sealed: Sealed, offset: int, length: int) -> None:
    sealed.fd.truncate(4 * PG)
    with refused("EINVAL", "A15"):
        sealed.fd.fallocate(PUNCH, offset, length)
    sealed.kernel.add_seals(sealed.fd, Seal.WRITE)
    with refused("EPERM", "A15"):
        sealed.fd.fallocate(PUNCH, offset, length)


def test_a16_an_unaligned_allocation_rounds_outward(sealed: Sealed) -> None:
    sealed.fd.fallocate(KEEP, PG - 1, 2)
    assert sealed.file.storage.usage.host_bytes == 2 * PG
    assert sealed.fd.stat().size == 0


def test_a17_allocation_grows_the_file_unless_told_not_to(sealed: Sealed) -> None:
    sealed.fd.fallocate(KEEP, 0, 4 * PG)
    assert sealed.fd.stat().size == 0
    sealed.fd.fallocate(0, 0, 2 * PG)
    assert sealed.fd.stat().size == 2 * PG
    sealed.kernel.add_seals(sealed.fd, Seal.GROW)
    with refused("EPERM", "A17"):
        sealed.fd.fallocate(0, PG, 2 * PG)
    sealed.fd.fallocate(0, PG, PG)


@pytest.mark.parametrize("mode", [0x10, 0x08, 0x20, 2], ids=lambda mode: f"A18-{mode:#x}")
def test_other_modes_are_refused(sealed: Sealed, mode: int) -> None:
    with refused("EOPNOTSUPP", "A18"):
        sealed.fd.fallocate(mode, 0, PG)


def test_a19_a20_guest_pages_are_neither_swapped_nor_moved(sealed: Sealed, plain: Fd) -> None:
    assert sealed.file.writepage(0) is Writeback.REDIRTIED
    with refused("ENOTSUPP", "A20"):
        sealed.file.migrate_page(0)
    ordinary = plain.inode
    assert isinstance(ordinary, SealGuestFile)
    assert ordinary.writepage(0) is Writeback.SWAPPED
    ordinary.migrate_page(0)


def test_a21_a22_a23_a24_registering(sealed: Sealed, tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    with refused("EINVAL", "A21"):
        sealed.kernel.register_guest(other, None, Owner())
    os.close(other)
    with refused("EINVAL", "A22"):
        sealed.kernel.register_guest(sealed.fd, None, Owner())
    first, second = Owner(), Owner()
    sealed.kernel.register_guest(sealed.fd, "vm", first)
    with refused("EPERM", "A23"):
        sealed.kernel.register_guest(sealed.fd, "other vm", second)
    sealed.kernel.register_guest(sealed.fd, "vm", second)
    sealed.fd.fallocate(0, 0, PG)
    assert first.heard == []
    assert second.heard == [("fallocate", "vm", 0, 1)]


def test_a25_registering_does_not_need_the_seal(kernel: SealKernel, plain: Fd) -> None:
    owner = Owner()
    kernel.register_guest(plain, "vm", owner)
    plain.fallocate(0, 0, PG)
    assert owner.heard == [("fallocate", "vm", 0, 1)]


def test_a26_a27_pages_are_locked_and_given_back_once(sealed: Sealed) -> None:
    pfn, order = sealed.file.get_lock_pfn(7)
    assert order == 0
    assert sealed.fd.stat().size == 0
    assert sealed.file.storage.usage.host_bytes == PG
    with refused("EDEADLK", "A26"):
        sealed.file.get_lock_pfn(7)
    with refused("EDEADLK", "A28"):
        sealed.fd.fallocate(PUNCH, 0, 8 * PG)
    sealed.file.put_unlock_pfn(pfn)
    assert 7 in sealed.file.dirty
    with refused("EINVAL", "A27"):
        sealed.file.put_unlock_pfn(pfn)
    sealed.fd.fallocate(PUNCH, 0, 8 * PG)
    assert sealed.file.storage.usage.host_bytes == 0


def test_a26_the_order_is_that_of_the_huge_page() -> None:
    made = Sealed(huge=True)
    owner = made.register()
    pfn, order = made.file.get_lock_pfn(3)
    assert order == 9
    made.file.put_unlock_pfn(pfn)
    made.fd.fallocate(0, 0, 2 * M2)
    owner.heard.clear()
    made.fd.fallocate(PUNCH, PG, M2)
    assert owner.heard == [("invalidate", "vm", 1, 512), ("invalidate", "vm", 512, 513)]
    assert made.file.get_lock_pfn(0)[1] == 0
    made.fd.close()


def test_a28_callbacks_come_page_by_page_before_the_page_goes(sealed: Sealed) -> None:
    owner = sealed.register()
    sealed.fd.truncate(8 * PG)
    sealed.fd.fallocate(KEEP, 0, 2 * PG)
    sealed.fd.fallocate(KEEP, 4 * PG, PG)
    sealed.fd.fallocate(PUNCH, PG, 7 * PG)
    assert owner.heard == [
        ("fallocate", "vm", 0, 2),
        ("fallocate", "vm", 4, 5),
        ("invalidate", "vm", 1, 2),
        ("invalidate", "vm", 4, 5),
    ]
    assert owner.present == [True, True]


def test_a28_a_failed_allocation_calls_nobody() -> None:
    made = Sealed(faults=FaultPlan([PlannedFault(FaultKind.NO_MEMORY)]))
    owner = made.register()
    with refused("ENOMEM"):
        made.fd.fallocate(0, 0, PG)
    assert owner.heard == []
    assert made.fd.stat().size == 0
    made.fd.close()
