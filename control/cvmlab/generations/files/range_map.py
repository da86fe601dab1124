# SPDX-License-Identifier: GPL-2.0-or-later
"""A map from page index to a small number, kept as runs of equal value.

Runs live in blocks of bounded length, as sorted arrays: a lookup is two bisections, a change moves one
block's bytes.  A million alternating pages cost about ten bytes each; a uniform terabyte costs one run.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple


_BLOCK = 1024


class ValueRun(NamedTuple):
    """``[start, end)`` in page indexes, all with ``value``."""

    start: int
    end: int
    value: int


class RangeMap:
    """Values 0-255 for every index in ``[0, 2**64)``; adjacent equal runs are always merged."""

    __slots__ = ("_firsts", "_starts", "_values")

    def __init__(self, default: int = 0) -> None:
        self._firsts = [0]
        self._starts = [array("Q", [0])]
        self._values = [bytearray([default])]

    def __getitem__(self, index: int) -> int:
        block = bisect_right(self._firsts, index) - 1
        return self._values[block][bisect_right(self._starts[block], index) - 1]

    def __len__(self) -> int:
        """Number of runs."""
        return sum(map(len, self._starts))

    @property
    def bytes_used(self) -> int:
        """Bytes held by the runs themselves, with the slack of their arrays."""
        arrays = sum(item.buffer_info()[1] * item.itemsize + 80 for item in self._starts)
        return arrays + sum(len(item) + 57 for item in self._values) + 40 * len(self._firsts)

    def set(self, start: int, end: int, value: int) -> None:
        """Give ``[start, end)`` one value."""
        if start >= end:
            return
        block = bisect_right(self._firsts, start) - 1
        inside = block + 1 == len(self._firsts) or end < self._firsts[block + 1]
        if inside and (block == 0 or self._firsts[block] < start):
            self._set_inside(block, start, end, value)
        else:
            self._set_across(start, end, value)

    def _set_inside(self, block: int, start: int, end: int, value: int) -> None:
        """Do set() for a range that lies, with the run before it, in one block."""
        starts, values = self._starts[block], self._values[block]
        low, high = bisect_left(starts, start), bisect_right(starts, end)
        after = values[high - 1]
        new_starts, new_values = [], []
        if low == 0 or values[low - 1] != value:
            new_starts.append(start)
            new_values.append(value)
        if after != value:
            new_starts.append(end)
            new_values.append(after)
        starts[low:high] = array("Q", new_starts)
        values[low:high] = bytes(new_values)
        self._split(block)

    def _set_across(self, start: int, end: int, value: int) -> None:
        after = self[end]
        before = self[start - 1] if start else None
        first = self._delete(start, end)
        if before != value:
            self._insert(first, start, value)
        else:
            self._settle(first)
        if after != value:
            self._add(end, after)
        else:
            self._drop(end)

    def runs(self, start: int, end: int) -> Iterator[ValueRun]:
        """Yield the runs of ``[start, end)`` in order, clipped to it.  The map must not change."""
        if start >= end:
            return
        first = bisect_right(self._firsts, start) - 1
        skip = bisect_right(self._starts[first], start)
        begin, value = start, self._values[first][skip - 1]
        for block in range(first, len(self._starts)):
            for here, new in islice(
                zip(self._starts[block], self._values[block], strict=True), skip, None
            ):
                if here >= end:
                    yield ValueRun(begin, end, value)
                    return
                yield ValueRun(begin, here, value)
                begin, value = here, new
            skip = 0
        yield ValueRun(begin, end, value)

    def find(self, start: int, end: int, value: int) -> Iterator[ValueRun]:
        """Yield the runs of ``[start, end)`` that have *value*."""
        return (run for run in self.runs(start, end) if run.value == value)

    def uniform(self, start: int, end: int, value: int) -> bool:
        """Return whether all of ``[start, end)`` has *value*."""
        if start >= end:
            return True
        block = bisect_right(self._firsts, start) - 1
        starts = self._starts[block]
        position = bisect_right(starts, start)
        if self._values[block][position - 1] != value:
            return False
        if position < len(starts):
            return starts[position] >= end  # the next run differs, as neighbours always do
        return block + 1 == len(self._firsts) or self._firsts[block + 1] >= end

    def count(self, start: int, end: int, value: int) -> int:
        """Count the pages of ``[start, end)`` that have *value*."""
        return sum(run.end - run.start for run in self.find(start, end, value))

    def _delete(self, start: int, end: int) -> int:
        """Remove run starts in ``[start, end)``; return the block where *start* belongs."""
        first = max(bisect_right(self._firsts, start) - 1, 0)
        last = max(bisect_left(self._firsts, end) - 1, first)
        low = bisect_left(self._starts[first], start)
        if first == last:
            high = bisect_left(self._starts[first], end)
            del self._starts[first][low:high], self._values[first][low:high]
        else:
            high = bisect_left(self._starts[last], end)
            del self._starts[first][low:], self._values[first][low:]
            del self._starts[last][:high], self._values[last][:high]
            middle = slice(first + 1, last)
            del self._starts[middle], self._values[middle], self._firsts[middle]
            self._settle(first + 1)
        return first

    def _settle(self, block: int) -> None:
        """Restore the first key of a block whose beginning was cut, or remove it when empty."""
        if self._starts[block]:
            self._firsts[block] = self._starts[block][0]
        elif len(self._starts) > 1 and block:
            del self._starts[block], self._values[block], self._firsts[block]

    def _insert(self, block: int, start: int, value: int) -> None:
        starts = self._starts[block]
        position = bisect_left(starts, start)
        starts.insert(position, start)
        self._values[block].insert(position, value)
        if position == 0:
            self._firsts[block] = start
        self._split(block)

    def _split(self, block: int) -> None:
        """Split a block that has grown too long: each change moves its bytes."""
        starts = self._starts[block]
        if len(starts) > 2 * _BLOCK:
            self._starts.insert(block + 1, starts[_BLOCK:])
            self._values.insert(block + 1, self._values[block][_BLOCK:])
            del starts[_BLOCK:], self._values[block][_BLOCK:]
            self._firsts.insert(block + 1, self._starts[block + 1][0])

    def _locate(self, start: int) -> tuple[int, int]:
        block = bisect_right(self._firsts, start) - 1
        return block, bisect_left(self._starts[block], start)

    def _add(self, start: int, value: int) -> None:
        """Begin a run at *start*, replacing one that begins there."""
        block, position = self._locate(start)
        starts = self._starts[block]
        if position < len(starts) and starts[position] == start:
            self._values[block][position] = value
        else:
            self._insert(block, start, value)

    def _drop(self, start: int) -> None:
        """Merge the run that begins at *start*, if any, into the one before."""
        block, position = self._locate(start)
        starts = self._starts[block]
        if position < len(starts) and starts[position] == start:
            del starts[position], self._values[block][position]
            self._settle(block)
