# SPDX-License-Identifier: GPL-2.0-or-later
"""Pools of huge pages and what files reserve in them, counted as /sys/kernel/mm/hugepages does."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The files nr_, free_, resv_, surplus_ and nr_overcommit_hugepages."""

    nr: int
    free: int
    resv: int
    surplus: int
    overcommit: int


class HugePool:
    """The host's huge pages of one order (log2 of 4 KiB pages).  ``cgroup_reserved`` is in pages."""

    def __init__(self, order: int, pages: int) -> None:
        self.order = order
        self.cgroup_reserved = 0
        self._nr = pages
        self._free = pages
        self._resv = 0

    @property
    def small_pages(self) -> int:
        return 1 << self.order

    @property
    def stats(self) -> PoolStats:
        return PoolStats(self._nr, self._free, self._resv, 0, 0)

    def reserve(self, pages: int) -> bool:
        """Reserve pages; return False, changing nothing, if too few are free."""
        if self._free - self._resv < pages:
            return False
        self._resv += pages
        return True

    def cancel(self, pages: int) -> None:
        self._resv -= pages

    def take(self) -> None:
        """Use one reserved page."""
        self._free -= 1
        self._resv -= 1

    def give_back(self) -> None:
        """Return a page to the reservation it came from."""
        self._free += 1
        self._resv += 1


class SubPool:
    """The reservation of one file: the most pages it can ever use."""

    def __init__(self, pool: HugePool, pages: int) -> None:
        self.pool = pool
        self.pages = pages
        self.used = 0

    def take(self) -> bool:
        """Use one page of the reservation; return False if all are in use."""
        if self.used == self.pages:
            return False
        self.used += 1
        self.pool.take()
        return True

    def give_back(self) -> None:
        self.used -= 1
        self.pool.give_back()

    def put(self) -> None:
        """End the file's reservation; unused pages go back to the pool."""
        self.pool.cancel(self.pages - self.used)
        self.pages = self.used
