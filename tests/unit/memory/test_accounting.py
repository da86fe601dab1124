# SPDX-License-Identifier: GPL-2.0-or-later
"""Each contradiction between journal, table, counters and storage is found, and told in a sentence."""

from dataclasses import replace

import numpy as np
import pytest

from cvmlab.memory.accounting import Books, differences
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import Kind
from cvmlab.memory.states import Layout, PageState, profiles
from cvmlab.memory.table import PageCounts
from tests.fakes import journals as make


PAGES = 64


@pytest.fixture
def books() -> Books:
    """Return those of a guest that has accepted ten pages and then shared two of them."""
    states = np.zeros(PAGES, np.uint8)
    states[:10] = PageState.PRIVATE
    states[:2] = PageState.SHARED
    return Books(
        records=make.journal(make.accepted(0, 10, 1000), make.converted(0, 2, 2000)),
        states=states,
        pages=PageCounts(pending=PAGES - 10, private=8, shared=2),
        counters={"accepted": 10, "to_shared": 2, "host_faults": 0},
        storage=(8 * PAGE_SIZE, 2 * PAGE_SIZE),
        slots=[Slot(0, 0, PAGES * PAGE_SIZE)],
        rules=profiles()["sw-protected"],
        layout=Layout.SPLIT,
    )


def test_books_that_agree(books: Books) -> None:
    assert differences(books) == []


def test_a_page_that_no_record_tells_of(books: Books) -> None:
    states = books.states.copy()
    states[20] = PageState.PRIVATE
    journal, counts, storage = differences(replace(books, states=states))
    assert journal == (
        "1 pages are not what the journal tells; the first, page 0x14, should be pending and is private"
    )
    assert "the plugin counts" in counts
    assert storage == "the private file has storage for 8 pages, and 9 are private"


def test_a_record_that_cannot_be(books: Books) -> None:
    again = make.journal(books.records, make.accepted(5, 1, 3000))
    told = differences(replace(books, records=again))
    assert told[0].startswith("record 12 at 0x5000: 1 pages were not pending")


def test_a_counter_that_is_off(books: Books) -> None:
    fault = make.journal(books.records, make.fault(5 * PAGE_SIZE, 3000))
    assert fault["kind"][-1] == Kind.HOST_FAULT
    told = differences(replace(books, records=fault))
    assert told == ["host_faults is 0, the journal has 1"]


@pytest.mark.parametrize(("private", "shared"), [(9, 2), (7, 2), (8, 3), (8, 1)])
def test_storage_that_the_table_does_not_know(books: Books, private: int, shared: int) -> None:
    storage = (private * PAGE_SIZE, shared * PAGE_SIZE)
    assert len(differences(replace(books, storage=storage))) == 1


def test_in_place_one_file_has_all_of_it(books: Books) -> None:
    there = replace(books, storage=(10 * PAGE_SIZE, 0), layout=Layout.IN_PLACE)
    assert differences(there) == []
