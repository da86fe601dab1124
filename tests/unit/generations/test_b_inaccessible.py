# SPDX-License-Identifier: GPL-2.0-or-later
"""Inaccessible memfd, version 8: the file, its notifiers, and slots with two halves."""

from collections.abc import Iterator

import pytest

from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.inaccessible import (
    ALLOW_SEALING,
    HUGETLB,
    INACCESSIBLE,
    InaccessibleFile,
    InaccessibleKernel,
)
from cvmlab.generations.refusal import Oops
from cvmlab.generations.vms.exits import VcpuExit, VmType
from cvmlab.generations.vms.private_slots import PrivateVm
from cvmlab.generations.vms.slots import Region, Userspace
from tests.unit.generations.support import KEEP, M2, PG, PUNCH, Listener, refused


@pytest.fixture
def kernel() -> InaccessibleKernel:
    return InaccessibleKernel()


@pytest.fixture
def fd(kernel: InaccessibleKernel) -> Iterator[Fd]:
    fd = kernel.memfd_create()
    yield fd
    fd.close()


@pytest.fixture
def file(fd: Fd) -> InaccessibleFile:
    inode = fd.inode
    assert isinstance(inode, InaccessibleFile)
    return inode


@pytest.mark.parametrize(
    ("flags", "entry"),
    [
        pytest.param(INACCESSIBLE | ALLOW_SEALING, "B01", id="B01-sealing"),
        pytest.param(INACCESSIBLE | HUGETLB, "B02", id="B02-hugetlb"),
        pytest.param(INACCESSIBLE | 16, "B01", id="B01-unknown"),
    ],
)
def test_impossible_flags(kernel: InaccessibleKernel, flags: int, entry: str) -> None:
    with refused("EINVAL", entry):
        kernel.memfd_create(flags)


def test_b03_a_file_system_of_its_own_around_the_inner_file(fd: Fd, file: InaccessibleFile) -> None:
    assert file.magic == int.from_bytes(b"INAC", "big")
    assert file.noexec
    fd.truncate(2 * PG)
    fd.fallocate(0, 0, PG)
    found = fd.stat()
    assert (found.size, found.blocks, found.dev) == (2 * PG, 8, 1)


@pytest.mark.parametrize(
    ("call", "errno"),
    [
        pytest.param("read", "EINVAL", id="B04-read"),
        pytest.param("write", "EINVAL", id="B04-write"),
        pytest.param("mmap", "ENODEV", id="B04-mmap"),
    ],
)
def test_there_are_no_handlers(fd: Fd, call: str, errno: str) -> None:
    def ask() -> None:
        fd.inode.refuse(call)

    with refused(errno, "B04"):
        ask()


def test_b05_b06_the_size_is_set_once(fd: Fd) -> None:
    with refused("EINVAL", "B06"):
        fd.truncate(PG + 1)
    fd.truncate(PG)
    for size in (PG, 2 * PG, 0, PG + 1):
        with refused("EPERM", "B05"):
            fd.truncate(size)


def test_b07_only_punches_must_be_aligned(fd: Fd, file: InaccessibleFile) -> None:
    fd.fallocate(0, 1, PG)
    assert file.storage.usage.host_bytes == 2 * PG
    with refused("EINVAL", "B07"):
        fd.fallocate(PUNCH, 1, PG)
    fd.fallocate(PUNCH, 0, PG)
    assert file.storage.usage.host_bytes == PG


def test_b08_every_fallocate_invalidates(kernel: InaccessibleKernel, fd: Fd) -> None:
    listener = Listener()
    kernel.register_notifier(fd, listener)
    fd.fallocate(0, 0, 2 * PG)
    fd.fallocate(PUNCH, PG, PG)
    with refused("EOPNOTSUPP", "B07"):
        fd.fallocate(0x10, 0, PG)  # zeroing fails below, and is told all the same
    starts = [told for told in listener.heard if told[0] == "start"]
    assert starts == [("start", 0, 2), ("start", 1, 2), ("start", 0, 1)]


def test_b08_as_posted_offsets_are_bytes() -> None:
    kernel = InaccessibleKernel(quirks=["byte-offsets"])
    fd = kernel.memfd_create()
    listener = Listener()
    kernel.register_notifier(fd, listener)
    fd.fallocate(0, PG, PG)
    assert listener.heard[0] == ("start", PG, 2 * PG)
    fd.close()


def test_b09_b10_a_page_is_locked_until_put_back(fd: Fd, file: InaccessibleFile) -> None:
    page = file.get_pfn(3)
    assert page.order == 0
    assert file.storage.usage.host_bytes == PG
    with refused("EDEADLK", "B09"):
        file.get_pfn(3)
    for mode in (0, PUNCH):
        with refused("EDEADLK", "B09"):
            fd.fallocate(mode, 0, 4 * PG)
    other = file.get_pfn(4)
    file.put_pfn(page)
    with refused("EDEADLK", "B09"):
        fd.fallocate(PUNCH, 0, 4 * PG)
    file.put_pfn(other)
    fd.fallocate(PUNCH, 0, 8 * PG)
    assert file.uptodate == {3, 4}


def test_b10_putting_nothing_back_is_a_warning(file: InaccessibleFile) -> None:
    file.put_pfn(None)
    assert len(file.world.trace.steps("warn")) == 1


def test_b09_the_order_is_that_of_the_huge_page() -> None:
    kernel = InaccessibleKernel()
    kernel.shmem_huge = True
    fd = kernel.memfd_create()
    file = fd.inode
    assert isinstance(file, InaccessibleFile)
    page = file.get_pfn(5)
    assert page.order == 9
    assert file.storage.usage.host_bytes == M2
    file.put_pfn(page)
    fd.close()


def test_b11_an_ordinary_memfd_is_refused_where_the_posted_code_crashed(
    kernel: InaccessibleKernel,
) -> None:
    ordinary = kernel.memfd_create(0)
    with refused("EINVAL", "B11"):
        kernel.register_notifier(ordinary, Listener())
    ordinary.close()
    posted = InaccessibleKernel(quirks=["no-magic-check"])
    ordinary = posted.memfd_create(0)
    with pytest.raises(Oops, match="ordinary"):
        posted.register_notifier(ordinary, Listener())
    ordinary.close()


def test_b12_the_newest_hears_first_and_nobody_leaves_meanwhile(
    kernel: InaccessibleKernel, fd: Fd, file: InaccessibleFile
) -> None:
    log: list[str] = []
    for name in "one", "two", "three":
        kernel.register_notifier(fd, Listener(name, log=log))

    class Leaving(Listener):
        def invalidate_end(self, start: int, end: int) -> None:  # type: ignore[explicit-override]
            with refused("EDEADLK", "B12"):
                file.unbind(binding)

    binding = kernel.register_notifier(fd, Leaving("four", log=log))
    fd.fallocate(0, 0, PG)
    assert log == ["four", "three", "two", "one"]
    file.unbind(binding)
    assert len(file.bindings) == 3


class TwoHalves:
    """A VM with a slot of eight pages at 2 MiB: private file from its page 4 on, and shared memory."""

    def __init__(self, kernel: InaccessibleKernel, fd: Fd, kind: VmType) -> None:
        self.vm = PrivateVm(kernel.world, kind, InaccessibleFile)
        self.shared = Storage.memfd("shared half", 8 * PG)
        region = Region(0, M2, 8 * PG, 4, Userspace(PG, self.shared), offset=4 * PG)
        self.slot = self.vm.set_private_region(region, fd)

    def close(self) -> None:
        self.vm.close()
        self.shared.close()


@pytest.fixture
def halves(kernel: InaccessibleKernel, fd: Fd) -> Iterator[TwoHalves]:
    made = TwoHalves(kernel, fd, VmType.SW_PROTECTED)
    yield made
    made.close()


def test_b13_private_comes_from_the_file_and_shared_from_the_address(
    halves: TwoHalves, file: InaccessibleFile
) -> None:
    vm = halves.vm
    vm.write(M2, b"shared")
    vm.convert(M2, PG, to_private=True)
    assert vm.read(M2, 6) == bytes(6)
    vm.write(M2, b"secret")
    assert halves.shared.read(0, 6) == b"shared"
    assert file.storage.read(4 * PG, 6) == b"secret"
    vm.convert(M2, PG, to_private=False)
    assert vm.read(M2, 6) == b"shared"


def test_b11_b13_slots_refuse_other_files_and_changes(
    kernel: InaccessibleKernel, fd: Fd, halves: TwoHalves
) -> None:
    ordinary = kernel.memfd_create(0)
    with refused("EINVAL", "B11"):
        halves.vm.set_private_region(Region(1, 0, PG), ordinary)
    ordinary.close()
    with refused("EINVAL", "B13"):
        halves.vm.set_private_region(Region(0, 0, PG), fd)
    with refused("EINVAL", "B13"):
        halves.vm.set_private_region(Region(1, 0, PG, offset=1), fd)
    assert list(halves.vm.slots) == [0]


@pytest.mark.parametrize(
    ("start", "pages", "frames"),
    [
        pytest.param(0, 4, (0, 0), id="B14-before"),
        pytest.param(2, 4, (512, 514), id="B14-over the start"),
        pytest.param(6, 2, (514, 516), id="B14-inside"),
        pytest.param(10, 9, (518, 520), id="B14-over the end"),
        pytest.param(12, 9, (0, 0), id="B14-after"),
    ],
)
def test_an_invalidation_is_clipped_to_the_slot(
    halves: TwoHalves, fd: Fd, start: int, pages: int, frames: tuple[int, int]
) -> None:
    zaps = len(halves.vm.world.trace.steps("zap"))
    fd.fallocate(PUNCH, start * PG, pages * PG)
    new = halves.vm.world.trace.steps("zap")[zaps:]
    assert [(entry.start, entry.end) for entry in new] == ([frames] if frames[1] else [])
    assert halves.vm.invalidations == 0


def test_b15_pages_convert_one_by_one_and_private_ones_cannot_be_pinned(halves: TwoHalves) -> None:
    vm = halves.vm
    vm.convert(M2, 8 * PG, to_private=True)
    vm.convert(M2 + 3 * PG, PG, to_private=False)
    assert [vm.is_private(512 + page) for page in range(8)] == [page != 3 for page in range(8)]
    vm.pin_shared(M2 + 3 * PG, PG)
    with refused("EFAULT", "B15"):
        vm.pin_shared(M2 + 2 * PG, 2 * PG)
    with refused("EINVAL", "B15"):
        vm.convert(M2 + 1, PG, to_private=True)
    with refused("EINVAL", "B15"):
        vm.convert(M2, 0, to_private=True)


def test_b16_a_slot_is_mapped_whole_or_converted_in_parts(halves: TwoHalves) -> None:
    vm = halves.vm
    vm.convert(M2, PG, to_private=True)
    with refused("EBUSY", "B16"):
        vm.mmap_start(0)
    vm.convert(M2, PG, to_private=False)
    vm.mmap_start(0)
    with refused("EBUSY", "B16"):
        vm.convert(M2, PG, to_private=True)
    vm.mmap_end(0)
    vm.convert(M2, PG, to_private=True)


@pytest.mark.parametrize("kind", [VmType.TDX, VmType.SNP], ids=["B16-tdx", "B16-snp"])
def test_never_for_tdx_and_snp_after_boot(kernel: InaccessibleKernel, fd: Fd, kind: VmType) -> None:
    halves = TwoHalves(kernel, fd, kind)
    halves.vm.mmap_start(0)
    halves.vm.mmap_end(0)
    halves.vm.finalized = True
    with refused("EOPNOTSUPP", "B16"):
        halves.vm.mmap_start(0)
    halves.close()


def test_b14_d51_a_punched_private_page_is_gone_from_the_guest(halves: TwoHalves, fd: Fd) -> None:
    vm = halves.vm
    vm.convert(M2, PG, to_private=True)
    vm.write(M2, b"x")
    assert vm.mapped[512] == 2
    fd.fallocate(KEEP | PUNCH, 4 * PG, PG)
    assert vm.mapped[512] == 0
    found = vm.read(M2 + 8 * PG)
    assert isinstance(found, VcpuExit)
