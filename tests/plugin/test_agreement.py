# SPDX-License-Identifier: GPL-2.0-or-later
"""The core in C and the model in Python are one machine: any history, same answers."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cvmlab.memory.states import Event, Model, PageState, RefusalCode, RefusedChange, profiles
from tests.plugin.conftest import MakeCore
from tests.plugin.core import Core, Library


# The level "plugin" runs this twice: in the library of a user, and under ASan and UBSan.
pytestmark = pytest.mark.fault("Q10")

MAX_PAGES = 40
# Mostly in the table, at its end, beyond it, and where sums of 64 bits wrap.
NUMBERS = st.one_of(
    st.integers(0, MAX_PAGES + 2),
    st.sampled_from([1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - MAX_PAGES, (1 << 64) - 1]),
)


class Twins(RuleBasedStateMachine):
    """Everything is done to both; whatever can be seen must be the same."""

    library: Library

    @initialize(profile=st.sampled_from(list(profiles())), pages=st.integers(1, MAX_PAGES))
    def start(self, profile: str, pages: int) -> None:
        self.core = Core(self.library, profile, pages)
        self.model = Model(profiles()[profile], pages)

    @rule(first=NUMBERS, count=NUMBERS, event=st.sampled_from(Event))
    def apply(self, first: int, count: int, event: Event) -> None:
        assert self.core.check(first, count, event) == self.model.check(first, count, event)
        assert self.core.apply(first, count, event) == self.model.apply(first, count, event)

    @rule(first=st.integers(0, 12), count=st.integers(1, 12), event=st.sampled_from(Event))
    def apply_inside(self, first: int, count: int, event: Event) -> None:
        self.apply(first, count, event)

    @rule(page=NUMBERS, event=st.sampled_from(Event))
    def apply_page(self, page: int, event: Event) -> None:
        found = next(iter(self.model.runs(page, 1)), (page, 0, PageState.PENDING))[2]
        answer = self.model.apply(page, 1, event)
        refusal = answer.refusal if isinstance(answer, RefusedChange) else RefusalCode.OK
        assert self.core.apply_page(page, event) == (refusal, found)

    @rule(page=st.integers(0, MAX_PAGES - 1))
    def touch(self, page: int) -> None:
        page %= len(self.model.table)
        assert self.core.touch(page) is self.model.touch(page)

    @rule(page=st.integers(0, MAX_PAGES - 1))
    def settle(self, page: int) -> None:
        page %= len(self.model.table)
        self.core.settle(page)
        self.model.settle(page)
        assert not self.core.any_stale(page)

    @rule()
    def reset(self) -> None:
        self.core.reset()
        self.model.reset()

    @rule(first=st.integers(0, MAX_PAGES), count=NUMBERS)
    def list_runs(self, first: int, count: int) -> None:
        assert list(self.core.runs(first, count)) == list(self.model.runs(first, count))

    @invariant()
    def same_table(self) -> None:
        assert self.core.table.tolist() == self.model.table.tolist()

    @invariant()
    def same_counts(self) -> None:
        assert self.core.counters == self.model.counters
        assert self.core.page_counts == self.model.page_counts
        assert self.core.header["generation"] == self.model.generation


def test_core_and_model_agree_on_any_history(library: Library) -> None:
    class Bound(Twins):
        pass

    Bound.library = library
    run_state_machine_as_test(
        Bound, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )


@pytest.mark.parametrize("profile", profiles())
def test_core_and_model_agree_on_every_event_of_a_single_page(
    make_core: MakeCore, profile: str
) -> None:
    for event in Event:
        for state in PageState:
            core, model = make_core(profile, 1), Model(profiles()[profile], 1)
            core.table[0] = model.table[0] = state
            assert core.apply(0, 1, event) == model.apply(0, 1, event)
            assert core.table[0] == model.table[0]
            assert core.counters == model.counters
