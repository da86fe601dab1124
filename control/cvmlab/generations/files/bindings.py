# SPDX-License-Identifier: GPL-2.0-or-later
"""Bindings of file ranges to their users, which are notified before pages are removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Notifier(Protocol):
    """The user's side of a binding: an emulated VM, or the connection to a running one.

    Page indexes are those of the file; ``end`` is not part of the range.  Every ``invalidate_start``
    that returned is followed by exactly one ``invalidate_end`` with the same arguments, also when the
    change in between failed.  A start that raises cancels the change.
    """

    def invalidate_start(self, start: int, end: int) -> None: ...

    def invalidate_end(self, start: int, end: int) -> None: ...

    def error(self, start: int, end: int) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """``[start, end)`` in page indexes of the file, used through ``notifier`` by ``owner``."""

    start: int
    end: int
    notifier: Notifier
    owner: object
    exclusive: bool = True


class MappingListener(Protocol):
    """A mapping of the file by the host, as far as the file knows it.

    ``value`` is PRIVATE or SHARED; page indexes are those of the file.
    """

    def converted(self, start: int, end: int, value: int) -> None: ...

    def punched(self, start: int, end: int) -> None: ...


class Bindings:
    """All bindings of one file, oldest first.

    ``running`` counts invalidations under way; bindings must not change during one.
    """

    __slots__ = ("_items", "running")

    def __init__(self) -> None:
        self._items: list[Binding] = []
        self.running = 0

    def __iter__(self) -> Iterator[Binding]:
        return iter(tuple(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def add(self, binding: Binding) -> None:
        self._items.append(binding)

    def remove(self, binding: Binding) -> None:
        self._items.remove(binding)

    def overlapping(self, start: int, end: int) -> list[Binding]:
        return [item for item in self._items if item.start < end and start < item.end]

    def at(self, index: int) -> Binding | None:
        return next(iter(self.overlapping(index, index + 1)), None)
