# SPDX-License-Identifier: GPL-2.0-or-later
"""The core in C and an emulated in-place file go through the same history: who may touch which page.

The two know different things.  The core tells a pending page from an accepted one, the file tells a
hole from a page with contents.  What both know, and must agree on, is what is shared.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, PAGE
from cvmlab.generations.vms.exits import VcpuExit, VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.generations.vms.slots import Region
from cvmlab.memory.states import Event, PageState, RefusedChange
from tests.plugin.core import Core, Library


PAGES = 40
PUNCH = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
FIRST, COUNT = st.integers(0, PAGES - 1), st.integers(1, PAGES)


class Twins(RuleBasedStateMachine):
    """Everything is done to both."""

    library: Library

    @initialize()
    def start(self) -> None:
        self.core = Core(self.library, "generic", PAGES)
        self.vm = Kvm(Generation.MAPPABLE_GUEST_MEMFD).create_vm(VmType.SW_PROTECTED)
        self.fd = self.vm.create_guest_memfd(PAGES * PAGE, 1)
        inode = self.fd.inode
        assert isinstance(inode, GuestMemfd)
        self.file = inode
        self.vm.set_region(Region(0, 0, PAGES * PAGE, 4), self.fd)

    def teardown(self) -> None:  # type: ignore[explicit-override]
        self.vm.close()
        self.fd.close()

    def core_changes(self, first: int, count: int, event: Event) -> int:
        """Apply and return how many pages went from private to shared or back."""
        answer = self.core.apply(first, count, event)
        assert not isinstance(answer, RefusedChange)
        shared = PageState.SHARED
        return sum(
            one.count for one in answer if (one.before is shared) is not (one.after is shared)
        )

    @rule(first=FIRST, count=COUNT, to=st.sampled_from([Event.TO_SHARED, Event.TO_PRIVATE]))
    def converts(self, first: int, count: int, to: Event) -> None:
        count = min(count, PAGES - first)
        other = PRIVATE if to is Event.TO_SHARED else SHARED
        due = self.file.private.count(first, first + count, other)
        attributes = 0 if to is Event.TO_SHARED else 8
        convert(self.file, ConvertRequest(first * PAGE, count * PAGE, attributes))
        assert self.core_changes(first, count, to) == due

    @rule(first=FIRST, count=COUNT)
    def punches(self, first: int, count: int) -> None:
        count = min(count, PAGES - first)
        self.fd.fallocate(PUNCH, first * PAGE, count * PAGE)
        assert self.core_changes(first, count, Event.DISCARD) == 0

    @rule(page=FIRST)
    def guest_touches(self, page: int) -> None:
        assert not isinstance(self.vm.write(page * PAGE, b"x"), VcpuExit)
        self.core.touch(page)
        assert self.core.state(page) in (PageState.PRIVATE, PageState.SHARED)

    @invariant()
    def both_share_the_same_pages(self) -> None:
        shared = [self.core.state(page) is PageState.SHARED for page in range(PAGES)]
        assert shared == [self.file.private[page] == SHARED for page in range(PAGES)]

    @invariant()
    def what_the_guest_accepted_and_nobody_took_away_is_there(self) -> None:
        for page in range(PAGES):
            if self.file.storage.has(page):
                assert self.core.state(page) is not PageState.PENDING


def test_core_and_file_share_the_same_pages_after_any_history(library: Library) -> None:
    class Bound(Twins):
        pass

    Bound.library = library
    run_state_machine_as_test(
        Bound, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
