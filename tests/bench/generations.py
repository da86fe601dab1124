# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated restricted memory file against the system calls it ends in, and its range map."""

import fcntl
import gc
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.host import host_view
from cvmlab.generations.host.mapping import HostMapping
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.syscalls import PAGE, fallocate, madvise, map_shared, unmap
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import Region
from tests.bench.measure import Figure, paired


MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SIZE = GIB
KEEP, PUNCH = 1, 3
TO_PRIVATE, TO_SHARED = 8, 0
SPANS = [(start, 2 * MIB) for start in range(0, 512 * MIB, 4 * MIB)]
PAIRS = 9
ALTERNATING = 1_000_000
LOOKUPS = 200_000
KVM_CREATE_VM, KVM_CREATE_GUEST_MEMFD = 0xAE01, 0xC040AED4


@dataclass
class Emulated:
    """A file of the newest rules, bound to a VM; ``mapping`` only where the host has a view."""

    fd: Fd
    vm: EmulatedVm
    mapping: HostMapping | None

    @classmethod
    def make(cls, size: int, *, view: bool) -> "Emulated":
        vm = Kvm(Generation.MAPPABLE_GUEST_MEMFD).create_vm(VmType.SW_PROTECTED)
        fd = vm.create_guest_memfd(size, 1)
        vm.set_region(Region(0, 0, size, 4), fd)
        mapping = HostMapping(fd.file, size) if view else None
        if mapping is not None:
            mapping.expose()
        return cls(fd, vm, mapping)

    @property
    def inode(self) -> GuestMemfd:
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        return inode

    def close(self) -> None:
        if self.mapping is not None:
            self.mapping.close()
        self.vm.close()
        self.fd.close()


def cpu_s(work: Callable[[], object]) -> float:
    """Return the CPU time of one call, in the kernel too: it does not mind a busy machine."""
    began = time.process_time()
    work()
    return time.process_time() - began


def each(work: Callable[[int, int], object]) -> float:
    """Return the seconds that *work* takes on all spans."""

    def run() -> None:
        for start, length in SPANS:
            work(start, length)

    return cpu_s(run)


def allocation() -> Iterator[Figure]:
    """Allocating and punching 2 MiB at a time."""
    file = Emulated.make(SIZE, view=False)
    raw = os.memfd_create("cvmlab-bench")
    os.ftruncate(raw, SIZE)
    kinds = {"ours": file.fd.fallocate, "raw": lambda *args: fallocate(raw, *args)}
    taken: dict[tuple[str, int], list[float]] = {(k, m): [] for k in kinds for m in (KEEP, PUNCH)}
    for _ in range(PAIRS):
        for kind, call in kinds.items():
            for mode in (KEEP, PUNCH):
                work = lambda start, length, c=call, m=mode: c(m, start, length)  # noqa: E731
                taken[kind, mode].append(each(work))
    os.close(raw)
    file.close()
    for name, mode in (("gen-allocate", KEEP), ("gen-punch", PUNCH)):
        ratios = [
            ours / raw for ours, raw in zip(taken["ours", mode], taken["raw", mode], strict=True)
        ]
        ratios.sort()
        detail = f"{len(SPANS)} ranges of 2 MiB, {PAIRS} pairs, {ratios[0]:.2f} to {ratios[-1]:.2f}"
        yield Figure(name, ratios[PAIRS // 2], detail + beside(mode))


def beside(mode: int) -> str:
    """Say what the kernel's own guest_memfd takes for the same, where there is one."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        argument = bytearray(struct.pack("8Q", SIZE, *([0] * 7)))
        fd = fcntl.ioctl(vm, KVM_CREATE_GUEST_MEMFD, argument)
    except OSError:
        return ""
    finally:
        os.close(kvm)
    if mode == PUNCH:
        each(lambda start, length: fallocate(fd, KEEP, start, length))
    taken = each(lambda start, length: fallocate(fd, mode, start, length))
    os.close(fd)
    os.close(vm)
    return f"; a real guest_memfd: {taken / len(SPANS) * 1e6:.0f} us a range"


def conversion() -> Iterator[Figure]:
    """To shared and back with the host's view enforced, against the calls that enforce it."""
    if host_view.supported() is not None:
        return
    file = Emulated.make(SIZE, view=True)
    file.fd.fallocate(KEEP, 0, SPANS[-1][0] + 2 * MIB)
    raw = RawView(SIZE)

    def ours() -> float:
        def there_and_back(attributes: int) -> Callable[[int, int], object]:
            return lambda at, length: convert(file.inode, ConvertRequest(at, length, attributes))

        return each(there_and_back(TO_SHARED)) + each(there_and_back(TO_PRIVATE))

    def other() -> float:
        return each(raw.share) + each(raw.hide)

    yield paired("gen-convert", ours, other, PAIRS)
    raw.close()
    file.close()


class RawView:
    """The system calls of a host view, with nothing around them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fd = os.memfd_create("cvmlab-bench")
        os.ftruncate(self._fd, size)
        fallocate(self._fd, KEEP, 0, size // 2)
        self._address = map_shared(self._fd, size)
        self._uffd = host_view.open_userfaultfd()
        request = struct.pack("QQQQ", self._address, size, 5, 0)
        fcntl.ioctl(self._uffd, 0xC020AA00, bytearray(request))

    def share(self, start: int, length: int) -> None:
        request = bytearray(struct.pack("QQQq", self._address + start, length, 1, 0))
        fcntl.ioctl(self._uffd, 0xC020AA07, request)

    def hide(self, start: int, length: int) -> None:
        madvise(self._address + start, length, 24)

    def close(self) -> None:
        os.close(self._uffd)
        unmap(self._address, self._size)
        os.close(self._fd)


def sparse() -> Iterator[Figure]:
    """The same operations on a file of 1 TiB and on one of 1 GiB."""
    files = {size: Emulated.make(size, view=False) for size in (GIB, TIB)}

    def work(size: int) -> float:
        file, middle = files[size], size // 2

        def run() -> None:
            for page in range(0, 400, 2):
                offset = middle + page * PAGE
                file.fd.fallocate(KEEP, offset, PAGE)
                convert(file.inode, ConvertRequest(offset, PAGE, TO_SHARED))
            file.fd.fallocate(PUNCH, middle, 400 * PAGE)
            convert(file.inode, ConvertRequest(0, size, TO_PRIVATE))

        return cpu_s(run)

    yield paired("gen-sparse", lambda: work(TIB), lambda: work(GIB), PAIRS)
    for file in files.values():
        file.close()


def lookup() -> Iterator[Figure]:
    """A range map of a million pages, every other one different."""
    ranges = RangeMap()
    for index in range(0, ALTERNATING, 2):
        ranges.set(index, index + 1, 1)
    step = 7919  # a prime: the lookups jump about
    indexes = [number * step % ALTERNATING for number in range(LOOKUPS)]
    began = time.process_time()
    for index in indexes:
        ranges[index]
    taken = time.process_time() - began
    yield Figure("gen-lookup", taken / LOOKUPS * 1e6, f"{LOOKUPS} lookups among {len(ranges)} runs")
    yield Figure("gen-bytes", ranges.bytes_used / ALTERNATING, f"{ranges.bytes_used} bytes")


def figures() -> Iterator[Figure]:
    for group in (allocation, conversion, sparse, lookup):
        gc.collect()  # what an earlier group left behind is not the price of this one
        yield from group()
