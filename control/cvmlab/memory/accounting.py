# SPDX-License-Identifier: GPL-2.0-or-later
"""One truth about a VM's pages: journal, table, counters and storage of the files agree.  Pure.

Each of the four is kept by other code, so a defect in one shows as a difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.counting import count
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.records import standing
from cvmlab.memory.replay import replay
from cvmlab.memory.states import STATE_MASK, Layout, PageState, Rules
from cvmlab.memory.table import PageCounts, count_states


_SHOWN = 5
# In sw-protected, each acceptance by a touch counts as one, and it has one record.
_NOT_COMPARED = ("guest_faults",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What a VM has left: *states* is its table, *storage* the bytes of both files, *counters* the
    plugin's, by their names in result.json."""

    records: NDArray[np.void]
    states: NDArray[np.uint8]
    pages: PageCounts
    counters: Mapping[str, int]
    storage: tuple[int, int]
    slots: Sequence[Slot]
    rules: Rules
    layout: Layout


def differences(books: Books, measures: Measures = MEASURES) -> list[str]:
    """Return how *books* contradict themselves; none of it if records were dropped."""
    return [
        *_journal_and_table(books),
        *_table_and_counts(books),
        *_journal_and_counters(books, measures),
        *_table_and_storage(books),
    ]


def _journal_and_table(books: Books) -> Iterator[str]:
    done = replay(books.records, books.rules, books.slots, len(books.states))
    for found in done.discrepancies[:_SHOWN]:
        yield f"record {found.seq} at {found.gpa:#x}: {found.text}"
    other = np.flatnonzero((done.table ^ books.states) & STATE_MASK)
    if len(other):
        page = int(other[0])
        told, is_now = (PageState(int(t[page]) & STATE_MASK) for t in (done.table, books.states))
        yield (
            f"{len(other)} pages are not what the journal tells; the first, page {page:#x}, "
            f"should be {told.word} and is {is_now.word}"
        )


def _table_and_counts(books: Books) -> Iterator[str]:
    counted = count_states([(0, books.states)], len(books.states))
    if counted != books.pages:
        yield f"the table has {asdict(counted)}, the plugin counts {asdict(books.pages)}"


def _journal_and_counters(books: Books, measures: Measures) -> Iterator[str]:
    rows = [
        row
        for row in measures.live
        if row.rule is not None and row.name in books.counters and row.name not in _NOT_COMPARED
    ]
    for name, number in count(standing(books.records), rows).items():
        if number != books.counters[name]:
            yield f"{name} is {books.counters[name]}, the journal has {number}"


def _table_and_storage(books: Books) -> Iterator[str]:
    if books.layout is not Layout.SPLIT:
        return  # one file has both kinds, and a shared page may have no content
    for name, state, storage in zip(
        ("private", "shared"), (PageState.PRIVATE, PageState.SHARED), books.storage, strict=True
    ):
        pages = int(np.count_nonzero((books.states & STATE_MASK) == state))
        if storage != pages * PAGE_SIZE:
            yield (
                f"the {name} file has storage for {storage // PAGE_SIZE} pages, "
                f"and {pages} are {name}"
            )
