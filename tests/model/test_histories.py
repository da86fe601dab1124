# SPDX-License-Identifier: GPL-2.0-or-later
"""Random histories of in-place files against a plain model of what the catalogue promises."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cvmlab.generations.compat import override
from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.faults import FaultKind, FaultPlan, PlannedFault
from cvmlab.generations.files.guest_memfd import PRIVATE, GuestMemfd
from cvmlab.generations.files.huge_pages import HugePool
from cvmlab.generations.files.pins import Hold, Pin
from cvmlab.generations.host.mapping import BusError, HostMapping
from cvmlab.generations.hugetlb import HugeGuestMemfd, HugeKvm
from cvmlab.generations.refusal import Refusal
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.exits import VcpuExit, VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.generations.vms.slots import Region
from tests.unit.generations.support import KEEP, PG, PUNCH


if TYPE_CHECKING:
    from cvmlab.generations.files.open_file import Fd

ORDER = 4
BLOCK = 1 << ORDER
PAGES = 3 * BLOCK
PAGE = st.integers(0, PAGES - 1)
LENGTH = st.integers(1, PAGES)
BYTE = st.integers(1, 255)
MMAP, INIT_SHARED = 1, 2
SETTINGS = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def attempt(action: Callable[[], None]) -> Refusal | None:
    """Return the refusal of an action, or None if it was done."""
    try:
        action()
    except Refusal as refusal:
        return refusal
    return None


class InPlace(RuleBasedStateMachine):
    """One file of 48 pages, bound at GPA 0 and mapped; the model is a byte and a bit per page."""

    version = "JUL26"

    def __init__(self) -> None:
        super().__init__()
        self.plan = FaultPlan()
        self.bytes = [0] * PAGES
        self.private: list[bool] = []
        self.held: list[Pin] = []
        self.expected_fault = False

    def make(self, *, shared: bool) -> "Fd":
        self.kvm = Kvm(Generation.MAPPABLE_GUEST_MEMFD, version=self.version, faults=self.plan)
        self.vm = self.kvm.create_vm(VmType.SW_PROTECTED)
        return self.vm.create_guest_memfd(PAGES * PG, MMAP | (INIT_SHARED if shared else 0))

    @initialize(shared=st.booleans())
    def start(self, *, shared: bool) -> None:
        self.fd = self.make(shared=shared)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.inode = inode
        self.private = [inode.private[index] == PRIVATE for index in range(PAGES)]
        self.vm.set_region(Region(0, 0, PAGES * PG, 4), self.fd)
        self.mapping = HostMapping(self.fd.file, PAGES * PG)

    @override
    def teardown(self) -> None:
        if self.private:
            self.mapping.close()
            self.vm.close()
            self.fd.close()
            assert self.inode.evicted
            assert self.kvm.world.files == 0

    @rule(page=PAGE, byte=BYTE)
    def host_stores(self, page: int, byte: int) -> None:
        done = self.mapping.touch(page * PG, bytes([byte]))
        if self.private[page]:
            assert done == BusError(page * PG)
        else:
            self.bytes[page] = byte

    @rule(page=PAGE)
    def host_loads(self, page: int) -> None:
        found = self.mapping.touch(page * PG)
        expected = BusError(page * PG) if self.private[page] else bytes([self.bytes[page]])
        assert found == expected

    @rule(page=PAGE, byte=BYTE)
    def guest_stores(self, page: int, byte: int) -> None:
        assert self.vm.write(page * PG, bytes([byte])) is None
        self.bytes[page] = byte

    @rule(page=PAGE)
    def guest_loads(self, page: int) -> None:
        assert self.vm.read(page * PG, 1) == bytes([self.bytes[page]])

    @rule(start=PAGE, length=LENGTH, to_private=st.booleans())
    def converts(self, start: int, length: int, *, to_private: bool) -> None:
        end = min(start + length, PAGES)
        wanted = ConvertRequest(start * PG, (end - start) * PG, 8 if to_private else 0)
        nothing_to_do = all(state is to_private for state in self.private[start:end])
        pins = [max(pin.start, start) for pin in self.held if pin.start < end and start < pin.end]
        refusal = attempt(lambda: convert(self.inode, wanted))
        if refusal is not None:
            assert refusal.error_offset is not None
            assert refusal.error_offset % PG == 0
            stopped = refusal.error_offset // PG
            assert start <= stopped < end
            if not (to_private and stopped == min(pins, default=None)):
                assert self.expected_fault
                self.expected_fault = False
            end = self.done_before(stopped, start)
        else:
            assert nothing_to_do or not (to_private and pins)
        self.private[start:end] = [to_private] * (end - start)

    def done_before(self, stopped: int, start: int) -> int:
        """Return the end of what a conversion that stopped has changed all the same."""
        del stopped
        return start

    @rule(start=PAGE, length=LENGTH)
    def punches(self, start: int, length: int) -> None:
        end = min(start + length, PAGES)
        self.fd.fallocate(PUNCH, start * PG, (end - start) * PG)
        self.bytes[start:end] = [0] * (end - start)

    @rule(start=PAGE, length=LENGTH)
    def allocates(self, start: int, length: int) -> None:
        end = min(start + length, PAGES)
        self.fd.fallocate(KEEP, start * PG, (end - start) * PG)

    @rule(page=PAGE)
    def host_pins(self, page: int) -> None:
        def pin() -> None:
            self.held.append(self.mapping.pin(page * PG, PG, "model", Hold.IO))

        refusal = attempt(pin)
        assert (refusal is not None) is self.private[page]
        assert refusal is None or refusal.entry == "F10"

    @precondition(lambda self: self.held)
    @rule()
    def host_unpins(self) -> None:
        self.inode.pins.unpin(self.held.pop())

    @precondition(lambda self: not self.expected_fault)
    @rule(page=PAGE)
    def somebody_holds_a_page_once(self, page: int) -> None:
        self.plan.add(PlannedFault(FaultKind.CONVERT_AGAIN, page=page))
        self.expected_fault = True

    @rule(page=PAGE)
    def an_access_comes_during_an_invalidation(self, page: int) -> None:
        def meanwhile() -> None:
            found = self.vm.read(page * PG, 1)
            assert not isinstance(found, VcpuExit)

        self.plan.add(PlannedFault(FaultKind.SLOW_INVALIDATE, meanwhile=meanwhile))

    @invariant()
    def states_agree_and_runs_are_merged(self) -> None:
        if not self.private:
            return
        runs = list(self.inode.private.runs(0, PAGES))
        states = [run.value == PRIVATE for run in runs for _ in range(run.start, run.end)]
        assert states == self.private
        assert all(one.value != two.value for one, two in itertools.pairwise(runs))

    @invariant()
    def the_guest_maps_only_what_is_there_as_what_it_is(self) -> None:
        if not self.private:
            return
        assert self.vm.invalidations == 0
        assert self.inode.bindings.running == 0
        for run in self.vm.mapped.runs(0, PAGES):
            for page in range(run.start, run.end):
                assert run.value in (0, 1 + self.private[page])

    @invariant()
    def the_host_is_charged_for_what_the_engine_knows(self) -> None:
        if self.private:
            usage = self.inode.storage.usage
            assert usage.host_bytes == usage.known_bytes


class AllOrNothing(InPlace):
    """Huge pages of 16 small ones, by the RFC of May 2025."""

    version = "R1v2"

    @override
    def make(self, *, shared: bool) -> "Fd":
        self.pool = HugePool(ORDER, 4)
        self.kvm = HugeKvm(version=self.version, pools=[self.pool], faults=self.plan)
        self.vm = self.kvm.create_vm(VmType.SW_PROTECTED)
        flags = 1 | 4 | (ORDER + 12) << 58 | (0 if shared else 2)
        return self.vm.create_guest_memfd(PAGES * PG, flags)

    @rule(start=PAGE, length=LENGTH)
    @override
    def punches(self, start: int, length: int) -> None:
        end = min(start + length, PAGES)
        pinned = any(pin.start < end and start < pin.end for pin in self.held)
        refusal = attempt(lambda: self.fd.fallocate(PUNCH, start * PG, (end - start) * PG))
        assert (refusal is not None) is pinned
        if refusal is None:
            self.bytes[start:end] = [0] * (end - start)

    @precondition(lambda self: not self.expected_fault)
    @rule(nth=st.integers(1, 3))
    def a_split_fails(self, nth: int) -> None:
        self.plan.add(PlannedFault(FaultKind.SPLIT, nth=nth))
        self.expected_fault = True

    @override
    def teardown(self) -> None:
        for pin in self.held:
            self.inode.pins.unpin(pin)
        super().teardown()
        assert self.pool.stats.free == self.pool.stats.nr
        assert self.pool.stats.resv == 0

    @invariant()
    def pages_are_whole_exactly_where_all_of_them_is_private(self) -> None:
        if not self.private:
            return
        assert isinstance(self.inode, HugeGuestMemfd)
        for number, folio in self.inode.folios.items():
            assert folio.split is not all(self.private[number * BLOCK : (number + 1) * BLOCK])

    @invariant()
    def the_pool_counts_what_the_file_has(self) -> None:
        if not self.private:
            return
        assert isinstance(self.inode, HugeGuestMemfd)
        used = len(self.inode.folios)
        stats = self.pool.stats
        assert (stats.free, stats.resv) == (stats.nr - used, PAGES // BLOCK - used)
        assert self.inode.stat().blocks == used * BLOCK * PG // 512

    @invariant()
    @override
    def the_host_is_charged_for_what_the_engine_knows(self) -> None:
        """Huge pages are counted in the pool; the host stores what was written."""


class InBatches(AllOrNothing):
    """The branch of 2026: a conversion that stops has done the huge pages before."""

    version = "HUGE26"

    @override
    def make(self, *, shared: bool) -> "Fd":
        del shared
        self.pool = HugePool(ORDER, 4)
        self.kvm = HugeKvm(version=self.version, pools=[self.pool], faults=self.plan)
        self.vm = self.kvm.create_vm(VmType.SW_PROTECTED)
        return self.vm.create_guest_memfd(PAGES * PG, 1 | 4, ORDER)

    @override
    def done_before(self, stopped: int, start: int) -> int:
        return max(start, stopped - stopped % BLOCK)

    @rule(start=st.integers(0, 2), length=st.integers(1, 3))
    @override
    def punches(self, start: int, length: int) -> None:
        super().punches(start * BLOCK, length * BLOCK)

    @rule(start=st.integers(0, 2), length=st.integers(1, 3))
    @override
    def allocates(self, start: int, length: int) -> None:
        super().allocates(start * BLOCK, length * BLOCK)


for machine in (InPlace, AllOrNothing, InBatches):
    machine.TestCase.settings = SETTINGS

TestInPlace = InPlace.TestCase
TestAllOrNothing = AllOrNothing.TestCase
TestInBatches = InBatches.TestCase
