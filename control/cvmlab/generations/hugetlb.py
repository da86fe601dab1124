# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd with huge pages: reservation at creation, splitting when shared, merging when private.

Pages are counted in a simulated pool, so that 1 GiB pages can be tried anywhere; bytes are stored
sparsely, unless ``real=True`` asks for hugetlb pages of the host.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cvmlab.generations.compat import override
from cvmlab.generations.conversion import apply, refusal_of
from cvmlab.generations.faults import FaultKind
from cvmlab.generations.files.guest_memfd import (
    PRIVATE,
    SHARED,
    GuestMemfd,
    GuestMemfdFlags,
    unaligned,
)
from cvmlab.generations.files.huge_pages import HugePool, SubPool
from cvmlab.generations.files.inode import MAX_BYTES, FileStat
from cvmlab.generations.files.storage import HugetlbStorage, Storage
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.syscalls import FALLOC_PUNCH_HOLE, PAGE
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm


if TYPE_CHECKING:
    from collections.abc import Iterable

    from cvmlab.generations.faults import FaultPlan
    from cvmlab.generations.files.pins import PinLedger

_PAGE_SHIFT = 12
_DEFAULT_ORDER = 9
_SIZE_CODE_MASK = 0x3F
INIT_PRIVATE = 2


@dataclass(slots=True)
class HugeFolio:
    """A huge page in the file, whole or split into 4 KiB pages.  ``node`` is its NUMA node."""

    split: bool
    node: int = 0


@dataclass(frozen=True, slots=True)
class Stranded:
    """A huge page of a freed file that is still partly pinned."""

    pool: HugePool
    pins: PinLedger
    start: int
    end: int


class HugeKvm(Kvm):
    """An emulated kernel with pools of huge pages, by order."""

    def __init__(
        self,
        *,
        version: str | None = None,
        quirks: Iterable[str] = (),
        pools: Iterable[HugePool] = (),
        faults: FaultPlan | None = None,
        nodes: int = 1,
        real: bool = False,
    ) -> None:
        super().__init__(
            Generation.HUGE_GUEST_MEMFD,
            version=version,
            quirks=quirks,
            faults=faults,
            nodes=nodes,
        )
        self.pools = {pool.order: pool for pool in pools}
        self.task_node = 0
        self.stranded: list[Stranded] = []
        self._real = real

    @override
    def create_file(
        self, size: int, flags: int, owner: EmulatedVm | None, page_order: int = 0
    ) -> GuestMemfd:
        order = self._page_order(flags, page_order)
        self._check(size, flags, order, page_order)
        if order is None:
            storage = Storage.memfd("cvmlab-guest-memfd", size)
            return GuestMemfd(self.world, storage, size, self._meaning(flags), owner)
        return self._create_huge(size, flags, owner, self.pools[order])

    def _page_order(self, flags: int, page_order: int) -> int | None:
        """Return the order that was asked for; None without huge pages."""
        rules = self.world.rules
        if not flags & rules.number("huge-flag"):
            return None
        shift = rules.number("size-shift")
        if not shift:
            return page_order
        code = flags >> shift & _SIZE_CODE_MASK
        return code - _PAGE_SHIFT if code else _DEFAULT_ORDER

    def _check(self, size: int, flags: int, order: int | None, page_order: int) -> None:
        rules, huge = self.world.rules, order is not None
        shift = rules.number("size-shift")
        size_code = _SIZE_CODE_MASK << shift if huge and shift else 0
        block = PAGE << order if order is not None and order in self.pools else PAGE
        rules.require(
            "create",
            {
                "bad-pointer": False,
                "other-process": False,
                "flags-unknown": bool(flags & ~(rules.number("known-flags") | size_code)),
                "order-without-flag": page_order != 0 and not huge,
                "huge-and-shared": huge and bool(flags & GuestMemfdFlags.INIT_SHARED),
                "size-negative": not 0 <= size <= MAX_BYTES,
                "size-zero": size == 0,
                "size-unaligned": unaligned(size),
                "page-size-unknown": huge and order not in self.pools,
                "size-not-huge": size % block != 0,
            },
            f"size {size:#x} flags {flags:#x}",
        )

    def _meaning(self, flags: int) -> int:
        """Translate a version's flags into those of the engine."""
        rules = self.world.rules
        mappable = rules.number("mappable-flag")
        meant = 0
        if not mappable or flags & mappable:
            meant |= GuestMemfdFlags.MMAP
        if rules.version == "R1v2" and flags & mappable and not flags & INIT_PRIVATE:
            meant |= GuestMemfdFlags.INIT_SHARED
        if rules.version == "HUGE26":
            meant |= flags & GuestMemfdFlags.INIT_SHARED
        return meant

    def _create_huge(
        self, size: int, flags: int, owner: EmulatedVm | None, pool: HugePool
    ) -> HugeGuestMemfd:
        make = HugetlbStorage if self._real else Storage
        shift = _PAGE_SHIFT + pool.order if self._real else None
        storage = make.memfd(
            "cvmlab-guest-memfd", _round_up(size, PAGE << pool.order), huge_shift=shift
        )
        inode = HugeGuestMemfd(self, storage, size, self._meaning(flags), owner)
        try:
            inode.reserve(pool)
        except OSError:
            inode.hold()
            inode.drop()
            raise
        return inode

    def reap(self) -> None:
        """Free stranded huge pages that are no longer pinned, as a kernel worker does later."""
        free = [page for page in self.stranded if page.pins.first(page.start, page.end) is None]
        for page in free:
            self.stranded.remove(page)
            page.pool.give_back()
            page.pool.cancel(1)
            self.world.trace.note("reap", page.start, page.end)


class HugeGuestMemfd(GuestMemfd):
    """The inode of a file of huge pages.  ``subpool`` is None until its reservation is made."""

    def __init__(
        self, kvm: HugeKvm, storage: Storage, size: int, flags: int, owner: EmulatedVm | None
    ) -> None:
        super().__init__(kvm.world, storage, size, flags, owner)
        self.kvm = kvm
        self.subpool: SubPool | None = None
        self.folios: dict[int, HugeFolio] = {}

    def reserve(self, pool: HugePool) -> None:
        """Reserve every huge page that the file can ever use."""
        pages = -(-self.size // (PAGE << pool.order))
        half_way = self.world.faults.take(FaultKind.NO_MEMORY, pages) is not None
        self.require("reserve", {"half-way": half_way, "not-enough": False})
        self.require("reserve", {"half-way": False, "not-enough": not pool.reserve(pages)})
        self.subpool = SubPool(pool, pages)
        pool.cgroup_reserved += pages

    @property
    def block(self) -> int:
        """Number of 4 KiB pages in a huge one."""
        return self.subpool.pool.small_pages if self.subpool else 1

    @override
    def order_of(self, index: int) -> int:
        folio = self.folios.get(index // self.block)
        whole = folio is not None and not folio.split
        return self.subpool.pool.order if self.subpool and whole else 0

    @override
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        huge = self.block * PAGE
        partial = bool(offset % huge or length % huge)
        not_huge = {"not-huge": partial and self.rules.version == "HUGE26"}
        end = offset + length
        self.check_fallocate(mode, offset, length, not_huge)
        if mode & FALLOC_PUNCH_HOLE:
            self.punch(offset // PAGE, min(end, self.size) // PAGE)
            return
        if self.rules.switch("allocate-rounds-down"):
            self.populate(offset // huge * self.block, end // huge * self.block)
        else:
            self.populate(offset // PAGE, end // PAGE)

    @override
    def populate(self, start: int, end: int) -> None:
        """Allocate a huge page for each block of ``[start, end)`` that has none."""
        numbers = range(start // self.block, -(-end // self.block))
        fault = self.world.faults.take(FaultKind.PARTIAL, len(numbers))
        for done, number in enumerate(numbers):
            if fault is not None and done == fault.page:
                self.world.trace.note("fault", start, end, fault.kind, fault.reason)
                self.require("populate", {"no-memory": False, "interrupted": True})
            if number not in self.folios:
                self._allocate(number)

    @override
    def back(self, start: int, end: int) -> None:
        self.populate(start, end)

    def _allocate(self, number: int) -> None:
        first = number * self.block
        fault = self.world.faults.take(FaultKind.NO_MEMORY, self.block)
        empty = self.subpool is None or fault is not None or not self.subpool.take()
        self.require("populate", {"no-memory": empty, "interrupted": False})
        shared = not self.private.uniform(first, first + self.block, PRIVATE)
        self.folios[number] = HugeFolio(split=shared, node=self._node())
        self.storage.allocate_huge(first, first + self.block)
        self.world.trace.note("populate", first, first + self.block)

    def _node(self) -> int:
        match self.rules.word("numa"):
            case "task":
                return self.kvm.task_node
            case "shared":
                return self.placement.node_for(0)  # one node for all pages: interleaving is ignored
            case _:
                return 0

    @override
    def node_at(self, index: int) -> int:
        return self.folios[index // self.block].node

    @override
    def punch(self, start: int, end: int) -> None:
        """Free the huge pages that lie in the range; zero the parts of others."""
        if start >= end:
            return
        held = self.rules.switch("punch-checks-pins") and self._huge_page_held(start, end)
        self.require("truncate", {"pinned": held}, start * PAGE, end * PAGE)
        with self.invalidated(start, end):
            whole = range(-(-start // self.block), end // self.block)
            if end == self.pages:
                whole = range(whole.start, -(-end // self.block))
            self.storage.zero(start, end)
            for number in [item for item in self.folios if item in whole]:
                self._free(number)
            for mapping in self.mappings:
                mapping.punched(start, end)

    def _huge_page_held(self, start: int, end: int) -> bool:
        return self.pins.first(start, end) is not None

    def _free(self, number: int) -> None:
        first = number * self.block
        self.storage.free_huge(first, first + self.block)
        del self.folios[number]
        if self.subpool is not None:
            self.subpool.give_back()
        self.world.trace.note("free", first, first + self.block)

    @override
    def batches(self, start: int, end: int) -> list[tuple[int, int]]:
        if not self.rules.switch("split-in-batches"):
            return [(start, end)]
        edges = [start, *range(start - start % self.block + self.block, end, self.block), end]
        return list(itertools.pairwise(edges))

    @override
    def store(self, start: int, end: int, value: int) -> None:
        """Record a conversion; split or merge the huge pages it touches, all or none."""
        touched = range(start // self.block, -(-end // self.block))
        if value == SHARED:
            self._split(touched, start, end)
        super().store(start, end, value)
        if value == PRIVATE:
            for number in touched:
                self._merge(number)

    def _split(self, numbers: range, start: int, end: int) -> None:
        done: list[HugeFolio] = []
        for number in numbers:
            folio = self.folios.get(number)
            if folio is None or folio.split:
                continue
            first = number * self.block
            if fault := self.world.faults.take(FaultKind.SPLIT, self.block):
                for earlier in done:
                    earlier.split = False
                self.world.trace.note("fault", first, first + self.block, fault.kind, fault.reason)
                raise refusal_of(self, "no-memory", max(start, first) * PAGE, start, end)
            folio.split = True
            done.append(folio)
            self.world.trace.note("split", first, first + self.block)

    def _merge(self, number: int) -> None:
        """Merge a huge page if all of it is private, including pages outside the request."""
        folio, first = self.folios.get(number), number * self.block
        last = first + self.block
        if folio is None or not folio.split or not self.private.uniform(first, last, PRIVATE):
            return
        if fault := self.world.faults.take(FaultKind.MERGE, self.block):
            self.world.trace.note("fault", first, last, fault.kind, fault.reason)
            return
        folio.split = False
        self.world.trace.note("merge", first, last)

    @override
    def attributes_changing(self, start: int, end: int, value: int) -> None:
        if self.rules.word("convert-ioctl") == "vm-attributes" and not self.private.uniform(
            start, end, value
        ):
            apply(self, value, start, end)

    @override
    def bound(self, start: int, end: int, value: int) -> None:
        """In the first RFC, the VM that binds pages decides who may touch them."""
        if self.rules.word("convert-ioctl") == "vm-attributes":
            self.private.set(start, end, value)

    @override
    def evict(self) -> None:
        """Truncate, free pages, drop the reservation: in this order, even if partly set up."""
        trace, subpool = self.world.trace, self.subpool
        trace.note("truncate", 0, self.pages)
        for number in list(self.folios):
            first = number * self.block
            held = self.pins.first(first, first + self.block) is not None
            if held and subpool is not None and self.rules.switch("pins-outlive-file"):
                del self.folios[number]
                self.kvm.stranded.append(
                    Stranded(subpool.pool, self.pins, first, first + self.block)
                )
            else:
                self._free(number)
        if subpool is not None:
            subpool.pool.cgroup_reserved -= -(-self.size // (PAGE << subpool.pool.order))
            subpool.put()
            trace.note("put-subpool")
        super().evict()

    @override
    def stat(self) -> FileStat:
        plain, size = super().stat(), self.block * PAGE
        blocks = len(self.folios) * size // 512
        return FileStat(plain.mode, plain.nlink, plain.size, size, blocks, plain.dev, plain.ino)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
