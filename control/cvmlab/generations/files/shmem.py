# SPDX-License-Identifier: GPL-2.0-or-later
"""The tmpfs part of the memfd generations: sizes in bytes, rounding, huge folios, placement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvmlab.generations.compat import override
from cvmlab.generations.files.inode import HUGE_PAGES, FileStat, Inode
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.syscalls import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    PAGE,
)


if TYPE_CHECKING:
    from cvmlab.generations.files.inode import World
    from cvmlab.generations.files.storage import Storage

HUGE_ORDER = 9


def other_mode(mode: int) -> bool:
    """Return whether tmpfs refuses this fallocate mode: it only allocates and punches."""
    punch_alone = bool(mode & FALLOC_PUNCH_HOLE) and not mode & FALLOC_KEEP_SIZE
    return punch_alone or bool(mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE))


class RangePolicy:
    """A NUMA node per page index: that of the mount's mpol=, and ranges bound to other nodes."""

    def __init__(self, node: int = 0) -> None:
        self._nodes = RangeMap(node)

    def bind(self, start: int, end: int, node: int) -> None:
        self._nodes.set(start, end, node)

    def node_for(self, index: int) -> int:
        return self._nodes[index]


class ShmemInode(Inode):
    """A tmpfs file; ``huge`` emulates a mount with huge=always."""

    def __init__(self, world: World, storage: Storage, *, huge: bool = False) -> None:
        super().__init__(world, storage)
        self.huge = huge
        self.huge_blocks: set[int] = set()
        self.policy = RangePolicy()
        self.placement = self.policy

    @override
    def order_of(self, index: int) -> int:
        return HUGE_ORDER if index // HUGE_PAGES in self.huge_blocks else 0

    def resize(self, size: int) -> None:
        """Set the size in bytes; unless it grows, free the pages beyond it."""
        if size <= self.size:
            self._split_from(-(-size // PAGE))
        self.storage.resize(size)
        self.size = size

    def allocate_bytes(self, mode: int, offset: int, length: int) -> tuple[int, int]:
        """Back every page the range touches; grow the file unless KEEP_SIZE.  Return page indexes."""
        start, end = offset // PAGE, -(-(offset + length) // PAGE)
        self.fill(start, end)
        if not mode & FALLOC_KEEP_SIZE and offset + length > self.size:
            self.size = offset + length
            self.storage.resize(self.size)
        return start, end

    def fill(self, start: int, end: int) -> None:
        """Back pages; if the file has huge pages, each empty 2 MiB block becomes one folio."""
        blocks = []
        if self.huge:
            first, last = start // HUGE_PAGES, -(-end // HUGE_PAGES)
            blocks = [block for block in range(first, last) if self._is_empty(block)]
        for block in blocks:
            start = min(start, block * HUGE_PAGES)
            end = max(end, (block + 1) * HUGE_PAGES)
        self.populate(start, end)
        self.huge_blocks.update(blocks)

    def _is_empty(self, block: int) -> bool:
        return not any(self.storage.present(block * HUGE_PAGES, (block + 1) * HUGE_PAGES))

    @override
    def release(self, start: int, end: int) -> None:
        self._split(start, end)
        super().release(start, end)

    def _split(self, start: int, end: int) -> None:
        """Split folios that lose a page into small pages."""
        blocks = range(start // HUGE_PAGES, -(-end // HUGE_PAGES))
        if len(blocks) > len(self.huge_blocks):
            self.huge_blocks = {block for block in self.huge_blocks if block not in blocks}
        else:
            self.huge_blocks.difference_update(blocks)

    def _split_from(self, index: int) -> None:
        self.huge_blocks = {
            block for block in self.huge_blocks if (block + 1) * HUGE_PAGES <= index
        }

    def folios(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the page ranges of the folios present in ``[start, end)``, unclipped, in order."""
        found: list[tuple[int, int]] = []
        for run in self.storage.present(start, end):
            index = run.start
            while index < run.end:
                size = 1 << self.order_of(index)
                first = index - index % size
                found.append((first, first + size))
                index = first + size
        return found

    @override
    def stat(self) -> FileStat:
        size = HUGE_PAGES * PAGE if self.huge else PAGE
        blocks = self.storage.usage.known_bytes // 512
        return FileStat(0o100600, 1, self.size, size, blocks, 1, self.number)
