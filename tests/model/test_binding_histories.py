# SPDX-License-Identifier: GPL-2.0-or-later
"""Random histories of the older files and of handing a file over, against what must always hold."""

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cvmlab.generations.compat import override
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.bindings import Binding
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.refusal import Refusal
from cvmlab.generations.restrictedmem import RestrictedFile, RestrictedKernel
from cvmlab.generations.seal_guest import Seal, SealGuestFile, SealKernel
from cvmlab.generations.vms.exits import VcpuExit, VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.generations.vms.slot_handover import migrate
from cvmlab.generations.vms.slots import Memslot, Region
from tests.model.test_histories import SETTINGS, attempt
from tests.unit.generations.support import KEEP, PG, PUNCH, Listener


if TYPE_CHECKING:
    from cvmlab.generations.files.inode import Page


PAGES = 32
PAGE = st.integers(0, PAGES - 1)
LENGTH = st.integers(1, PAGES)


class Restricted(RuleBasedStateMachine):
    """memfd_restricted(): bindings come and go, pages are punched, some invalidations are slow."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = FaultPlan()
        self.fd = RestrictedKernel(version="v10", faults=self.plan).memfd_restricted()
        inode = self.fd.inode
        assert isinstance(inode, RestrictedFile)
        self.file = inode
        self.bound: list[tuple[Binding, Listener]] = []
        self.all: list[Listener] = []
        self.pages: list[Page] = []
        self.size = 0

    @override
    def teardown(self) -> None:
        self.fd.close()
        assert self.file.evicted
        assert len(self.file.bindings) == 0

    @rule(start=PAGE, length=LENGTH)
    def binds(self, start: int, length: int) -> None:
        listener, end = Listener(), start + length
        taken = any(one.start < end and start < one.end for one, _ in self.bound)
        try:
            binding = self.file.bind_range(start, end, listener)
        except Refusal:
            assert taken
        else:
            assert not taken
            self.bound.append((binding, listener))
            self.all.append(listener)

    @precondition(lambda self: self.bound)
    @rule(which=st.integers(0, 100))
    def unbinds(self, which: int) -> None:
        binding, _ = self.bound.pop(which % len(self.bound))
        self.file.unbind(binding)

    @rule(page=PAGE)
    def looks_up(self, page: int) -> None:
        covered = any(one.start <= page < one.end for one, _ in self.bound)
        try:
            found = self.file.get_page(page)
        except Refusal:
            assert not covered
        else:
            assert covered
            self.pages.append(found)

    @rule(start=PAGE, length=LENGTH)
    def punches(self, start: int, length: int) -> None:
        end = start + length
        concerned = [
            listener for one, listener in self.bound if one.start < end and start < one.end
        ]
        before = {id(listener): len(listener.heard) for listener in self.all}
        self.fd.fallocate(PUNCH, start * PG, length * PG)
        for listener in self.all:
            new = listener.heard[before[id(listener)] :]
            told = any(listener is one for one in concerned)
            assert new == ([("start", start, end), ("end", start, end)] if told else [])
        assert not any(map(self.file.still_valid, self.pages))
        self.pages.clear()

    @rule(start=PAGE, length=LENGTH, keep=st.sampled_from([0, KEEP]))
    def allocates(self, start: int, length: int, keep: int) -> None:
        self.fd.fallocate(keep, start * PG, length * PG)
        if not keep:
            self.size = max(self.size, (start + length) * PG)

    @rule(size=st.integers(0, PAGES))
    def is_sized(self, size: int) -> None:
        refusal = attempt(lambda: self.fd.truncate(size * PG))
        assert (refusal is not None) is (self.size > 0)
        if refusal is None:
            self.size = size * PG

    @rule(page=PAGE)
    def goes_bad(self, page: int) -> None:
        self.file.poison(page)
        for binding, listener in self.bound:
            if binding.start <= page < binding.end:
                assert listener.heard[-1] == ("error", page, page + 1)

    @rule()
    def is_slow(self) -> None:
        def meanwhile() -> None:
            assert attempt(lambda: self.file.unbind(Binding(0, 1, Listener(), self))) is not None

        self.plan.add(PlannedFault(FaultKind.SLOW_INVALIDATE, meanwhile=meanwhile))

    @invariant()
    def starts_and_ends_balance(self) -> None:
        for listener in self.all:
            kinds = Counter(told[0] for told in listener.heard)
            assert kinds["start"] == kinds["end"]
        assert self.file.bindings.running == 0

    @invariant()
    def bindings_are_disjoint(self) -> None:
        ranges = sorted((one.start, one.end) for one in self.file.bindings)
        assert all(low[1] <= high[0] for low, high in itertools.pairwise(ranges))
        assert len(ranges) == len(self.bound)

    @invariant()
    def size_and_storage_are_what_was_done(self) -> None:
        assert self.fd.stat().size == self.size
        usage = self.file.storage.usage
        assert usage.host_bytes == usage.known_bytes


class Sealed(RuleBasedStateMachine):
    """F_SEAL_GUEST: the owner hears of every page that goes, once, and of nothing else."""

    def __init__(self) -> None:
        super().__init__()
        kernel = SealKernel()
        self.fd = kernel.memfd_create()
        kernel.add_seals(self.fd, Seal.GUEST)
        inode = self.fd.inode
        assert isinstance(inode, SealGuestFile)
        self.file = inode
        self.present: set[int] = set()
        self.locked: dict[int, int] = {}
        kernel.register_guest(self.fd, "vm", self)

    @override
    def teardown(self) -> None:
        self.fd.close()

    def invalidate_page_range(self, owner: object, start: int, end: int) -> None:
        assert owner == "vm"
        assert set(range(start, end)) <= self.present
        self.present -= set(range(start, end))

    def fallocate(self, owner: object, start: int, end: int) -> None:
        assert owner == "vm"
        self.present |= set(range(start, end))

    def must_wait(self, start: int, end: int) -> bool:
        return any(start <= page < end for page in self.locked)

    @rule(start=PAGE, length=LENGTH, keep=st.sampled_from([0, KEEP]))
    def allocates(self, start: int, length: int, keep: int) -> None:
        self.fd.fallocate(keep, start * PG, length * PG)

    @rule(start=PAGE, length=LENGTH)
    def punches(self, start: int, length: int) -> None:
        refusal = attempt(lambda: self.fd.fallocate(PUNCH, start * PG, length * PG))
        assert (refusal is not None) is self.must_wait(start, start + length)

    @rule(pages=st.integers(0, PAGES))
    def is_sized(self, pages: int) -> None:
        grows = pages * PG > self.fd.stat().size
        refusal = attempt(lambda: self.fd.truncate(pages * PG))
        assert (refusal is not None) is (not grows and self.must_wait(pages, 1 << 40))
        if refusal is None:
            assert self.fd.stat().size == pages * PG
            assert grows or max(self.present, default=-1) < pages

    @rule(page=PAGE)
    def is_locked(self, page: int) -> None:
        try:
            pfn, _ = self.file.get_lock_pfn(page)
        except Refusal:
            assert page in self.locked
        else:
            assert page not in self.locked
            self.locked[page] = pfn
            self.present.add(page)

    @precondition(lambda self: self.locked)
    @rule()
    def is_unlocked(self) -> None:
        _, pfn = self.locked.popitem()
        self.file.put_unlock_pfn(pfn)

    @rule(page=PAGE)
    def is_attacked(self, page: int) -> None:
        assert attempt(lambda: [self.fd.write(page * PG, b"x")].clear()) is not None
        refusal = attempt(lambda: [self.fd.read(page * PG, 1)].clear())
        assert (refusal is not None) is (page <= self.fd.stat().size // PG)

    @invariant()
    def the_owner_knows_what_is_there(self) -> None:
        runs = self.file.storage.present(0, 1 << 40)
        assert {page for run in runs for page in range(run.start, run.end)} == self.present
        assert self.file.storage.usage.host_bytes == len(self.present) * PG


class Handed(RuleBasedStateMachine):
    """Delayed binding: two VMs, one file; nobody reads what the other owns, nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.kvm = Kvm(version="delayed")
        self.vms = [self.kvm.create_vm(VmType.SW_PROTECTED) for _ in range(2)]
        for vm in self.vms:
            vm.set_attributes(0, PAGES * PG, 8)
        self.fd = self.kvm.create_guest_memfd(PAGES * PG)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.inode = inode
        self.bytes = [0] * PAGES

    @override
    def teardown(self) -> None:
        for vm in self.vms:
            vm.close()
        assert not self.inode.evicted
        self.fd.close()
        assert self.inode.evicted

    @rule(who=st.integers(0, 1), half=st.integers(0, 1))
    def prepares(self, who: int, half: int) -> None:
        vm, size = self.vms[who], PAGES // 2 * PG
        region = Region(half, half * size, size, 4, offset=half * size)
        refusal = attempt(lambda: vm.set_region(region, self.fd))
        assert refusal is None or refusal.entry == "D37"

    @rule(who=st.integers(0, 1), half=st.integers(0, 1))
    def deletes(self, who: int, half: int) -> None:
        vm = self.vms[who]
        refusal = attempt(lambda: vm.set_region(Region(half, 0, 0)))
        assert refusal is None or refusal.entry == "D36"

    @rule(who=st.integers(0, 1), page=PAGE, byte=st.integers(1, 255))
    def runs(self, who: int, page: int, byte: int) -> None:
        vm = self.vms[who]
        mine = self.inode.owner in (None, vm)
        found = vm.read(page * PG, 1)
        if page * 2 // PAGES not in vm.slots:
            assert isinstance(found, VcpuExit)
            return
        assert (found == bytes([self.bytes[page]])) is mine
        if mine:
            assert vm.write(page * PG, bytes([byte])) is None
            self.bytes[page] = byte
            assert self.inode.owner is vm

    @rule(source=st.integers(0, 1))
    def is_migrated(self, source: int) -> None:
        old, new = self.vms[source], self.vms[1 - source]
        before = [(item.start, item.end) for item in self.inode.bindings]
        halves = {start * 2 // PAGES for start, _ in before}
        possible = self.inode.owner is old and halves <= new.slots.keys()
        refusal = attempt(lambda: migrate(self.inode, old, new))
        assert (refusal is None) is possible
        assert [(item.start, item.end) for item in self.inode.bindings] == before
        assert refusal is not None or self.inode.owner is new

    @invariant()
    def bindings_are_the_owners_own_slots(self) -> None:
        owner = self.inode.owner
        assert (owner is None) is (len(self.inode.bindings) == 0)
        for binding in self.inode.bindings:
            assert isinstance(binding.notifier, Memslot)
            assert binding.notifier.vm is owner
            assert binding.notifier.binding is binding

    @invariant()
    def nothing_is_lost(self) -> None:
        for page in range(0, PAGES, 5):
            assert self.inode.storage.read(page * PG, 1) == bytes([self.bytes[page]])


for machine in (Restricted, Sealed, Handed):
    machine.TestCase.settings = SETTINGS

TestRestricted = Restricted.TestCase
TestSealed = Sealed.TestCase
TestHanded = Handed.TestCase
