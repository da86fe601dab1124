# SPDX-License-Identifier: GPL-2.0-or-later
"""How counts and states differ from what a test asserts."""

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES
from cvmlab.memory.page_check import StateRun, Wanted, counts_fault, state_fault
from cvmlab.memory.ranges import GpaRange
from cvmlab.memory.states import PageState
from cvmlab.memory.table import PageCounts


PAGES = PageCounts(pending=100, private=20, shared=8)
COUNTERS = dict.fromkeys(MEASURES.slots, 0) | {"accepted": 28, "to_shared": 8}


def test_counts_that_are_as_asserted() -> None:
    wanted: dict[str, Wanted] = {
        "shared": 8,
        "accepted": range(20, 30),
        "host_faults": 0,
        "poisoned": 0,
    }
    assert counts_fault(PAGES, COUNTERS, wanted) is None


def test_counts_that_are_not_are_all_named_and_the_rest_shown() -> None:
    fault = counts_fault(PAGES, COUNTERS, {"shared": 0, "accepted": range(10), "private": 20})
    assert fault == (
        "shared is 8, not 0; accepted is 28, not 0 to 9\n"
        "  pages     pending 100, private 20, shared 8, poisoned 0\n"
        "  counters  accepted 28, to_shared 8"
    )


def test_a_count_there_is_not_is_an_error() -> None:
    with pytest.raises(ConfigError, match="assert_counts: there is no 'shard'"):
        counts_fault(PAGES, COUNTERS, {"shard": 0})


def test_pages_in_another_state_are_named() -> None:
    within = GpaRange(0x1000, 0x8000)
    runs = [
        StateRun(GpaRange(0x1000, 0x4000), PageState.PRIVATE),
        StateRun(GpaRange(0x5000, 0x3000), PageState.SHARED),
        StateRun(GpaRange(0x8000, 0x1000), PageState.PRIVATE),
    ]
    assert state_fault(runs[:1], runs[0].range, PageState.PRIVATE) is None
    fault = state_fault(runs, within, PageState.PRIVATE)
    assert fault is not None
    assert fault.splitlines() == [
        "3 of 8 pages of 0x1000+32K are not private",
        "  0x5000+12K is shared",
    ]
