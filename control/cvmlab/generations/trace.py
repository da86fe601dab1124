# SPDX-License-Identifier: GPL-2.0-or-later
"""A record, in memory, of what the engine did, refused and injected."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


class TraceEntry(NamedTuple):
    """One step.  ``start``/``end`` are page indexes; ``reason`` says why when it is not obvious."""

    sequence: int
    step: str
    start: int
    end: int
    outcome: str
    reason: str


class Trace:
    """The last *capacity* entries, and how many older ones were dropped."""

    __slots__ = ("_entries", "_next")

    def __init__(self, capacity: int = 65536) -> None:
        self._entries: deque[TraceEntry] = deque(maxlen=capacity)
        self._next = 0

    def note(
        self, step: str, start: int = 0, end: int = 0, outcome: str = "done", reason: str = ""
    ) -> None:
        self._entries.append(TraceEntry(self._next, step, start, end, outcome, reason))
        self._next += 1

    def __iter__(self) -> Iterator[TraceEntry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return self._next

    @property
    def dropped(self) -> int:
        return self._next - len(self._entries)

    def steps(self, *names: str) -> list[TraceEntry]:
        """Return the entries of these steps, or all of them."""
        return [entry for entry in self._entries if not names or entry.step in names]
