# SPDX-License-Identifier: GPL-2.0-or-later
"""Count the records of a journal for the rows of the table of measures.  Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import final

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.measures import Measure, RecordRule, Unit
from cvmlab.memory.records import Fields, Past, changed_pages, is_event, pieces
from cvmlab.memory.states import PageState


Records = NDArray[np.void]
Amounts = NDArray[np.int64]
Mask = NDArray[np.bool_]


_FIELDS = ("kind", "from", "to", "verdict", "pages")


def amounts(records: Records, rows: Iterable[Measure]) -> Iterator[tuple[Measure, Amounts]]:
    """Yield what each of *records* adds to each of *rows*: its pages, or one event.

    A row without a rule gets nothing.
    """
    for row, chosen, pages in _chosen(records, rows):
        added = chosen.astype(np.int64)
        yield row, np.multiply(added, pages, out=added) if row.unit is Unit.PAGES else added


def count(records: Records, rows: Iterable[Measure]) -> dict[str, int]:
    """Return the sums over *records*, by the name of the row."""
    return {
        row.name: int(pages[chosen].sum(dtype=np.int64))
        if row.unit is Unit.PAGES
        else int(np.count_nonzero(chosen))
        for row, chosen, pages in _chosen(records, rows)
    }


def _chosen(
    records: Records, rows: Iterable[Measure]
) -> Iterator[tuple[Measure, Mask, NDArray[np.uint32]]]:
    """Yield which of *records* count for each of *rows*, and the pages of all."""
    fields = {name: np.ascontiguousarray(records[name]) for name in _FIELDS}
    changed = changed_pages(fields)
    for row in rows:
        yield row, _match(fields, changed, row.rule), fields["pages"]


def _match(fields: Fields, changed: Mask, rule: RecordRule | None) -> Mask:
    if rule is None:
        return np.zeros(len(changed), np.bool_)
    chosen = is_event(fields, rule.kind)
    if rule.changed:
        chosen &= changed
    if rule.to:
        states = np.zeros(256, np.bool_)  # any value of a byte
        states[[PageState.of(word) for word in rule.to]] = True
        chosen &= states[fields["to"]]
    return chosen


@final
class RunningCount:
    """Counts of a journal that is read piece by piece."""

    def __init__(self, rows: Iterable[Measure]) -> None:
        self._rows = tuple(rows)
        self._counts = dict.fromkeys((row.name for row in self._rows), 0)
        self._past: Past[dict[str, int]] = Past()

    @property
    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def add(self, records: Records) -> None:
        """Add *records*; a rewind takes the counts back to what they were at its checkpoint."""
        for piece in pieces(records):
            for name, number in count(piece, self._rows).items():
                self._counts[name] += number
            if len(piece):
                self._counts = self._past.after(piece[-1], self._counts)
