# SPDX-License-Identifier: GPL-2.0-or-later
"""mmap() of a guest_memfd by the host: what it may touch by the rules, enforced on demand."""

from __future__ import annotations

import mmap
from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd
from cvmlab.generations.host.host_view import HostView, Side
from cvmlab.generations.syscalls import PAGE


if TYPE_CHECKING:
    from collections.abc import Sequence

    from cvmlab.generations.files.open_file import OpenFile
    from cvmlab.generations.files.pins import Hold, Pin


@dataclass(frozen=True, slots=True)
class BusError:
    """The signal a host access ends in: SIGBUS with BUS_ADRERR at this byte of the mapping."""

    offset: int
    code: int = 2


class Advice(StrEnum):
    """The madvise() and mlock() calls whose answers differ from plain memory."""

    HUGEPAGE = "hugepage"
    COLLAPSE = "collapse"
    DONTNEED = "dontneed"
    REMOVE = "remove"
    FREE = "free"
    POPULATE = "populate"
    LOCK = "lock"


class Policy(IntEnum):
    """NUMA policies that a mapping can carry."""

    DEFAULT = 0
    BIND = 2
    INTERLEAVE = 3


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """The nodes of new pages under a policy of the mapping."""

    policy: Policy
    nodes: tuple[int, ...]

    def node_for(self, index: int) -> int:
        if self.policy is Policy.INTERLEAVE:
            return self.nodes[index % len(self.nodes)]
        return self.nodes[0] if self.nodes else 0


class HostMapping:
    """A shared mapping of the first ``size`` bytes of a guest_memfd; it keeps the file alive."""

    def __init__(self, file: OpenFile, size: int) -> None:
        inode = file.inode
        if not isinstance(inode, GuestMemfd):
            raise TypeError("only a guest_memfd has host mappings")
        self._file = file
        self._view: HostView | None = None
        self.inode = inode
        self.size = size
        self.policy = NodePolicy(Policy.DEFAULT, ())
        file.hold()
        inode.mappings.append(self)

    def touch(self, offset: int, data: bytes | None = None, size: int = 1) -> bytes | BusError:
        """Load *size* bytes, or store *data*, as the host's CPU would; stop at the first bad byte."""
        length = size if data is None else len(data)
        self._require_inside(offset, length)
        for index in range(offset // PAGE, -(-(offset + length) // PAGE)):
            if not self.inode.host_may_touch(index):
                before = max(offset, index * PAGE)
                if data is not None and before > offset:
                    self._store(offset, data[: before - offset])
                return BusError(before)
        if data is not None:
            self._store(offset, data)
            return data
        return self.inode.storage.read(offset, size)

    def _require_inside(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise ValueError(f"{offset:#x}+{length:#x} lies outside the mapping")

    def _store(self, offset: int, data: bytes) -> None:
        start, end = offset // PAGE, -(-(offset + len(data)) // PAGE)
        self.inode.back(start, end)
        self.inode.storage.write(offset, data)

    def pin(self, offset: int, size: int, who: str, hold: Hold) -> Pin:
        """Pin pages for I/O, as vmsplice() or an IOMMU do; private ones are refused."""
        start, end = offset // PAGE, -(-(offset + size) // PAGE)
        touchable = all(map(self.inode.host_may_touch, range(start, end)))
        self.inode.require("pin", {"private": not touchable}, offset, end * PAGE)
        return self.inode.pins.pin(start, end, who, hold)

    def protect(self, protection: int) -> None:
        self.inode.require("mprotect", {"exec": bool(protection & mmap.PROT_EXEC)})

    def advise(self, advice: Advice, offset: int, size: int) -> None:
        """Do what madvise() or mlock() does to pages of the mapping."""
        start, end = offset // PAGE, (offset + size) // PAGE
        self._require_inside(offset, size)
        facts: dict[str, bool] = defaultdict(bool)
        if advice in (Advice.POPULATE, Advice.LOCK):
            shared = self.inode.private.uniform(start, end, SHARED)
            facts[f"{advice}-private"] = not shared
        else:
            facts[advice.value] = True
        self.inode.require("madvise", facts, offset, offset + size)
        if advice is Advice.REMOVE:
            self.inode.punch(start, end)
        elif advice in (Advice.POPULATE, Advice.LOCK):
            self.inode.populate(start, end)

    def bind_memory(self, policy: int, nodes: Sequence[int]) -> None:
        """Set the NUMA policy of pages that are allocated from now on."""
        known = policy in (Policy.DEFAULT, Policy.BIND, Policy.INTERLEAVE)
        legal = all(0 <= node < self.inode.world.nodes for node in nodes)
        self.inode.require(
            "mbind",
            {
                "bad-mode": not known,
                "bad-nodes": not legal or bool(nodes) is (policy == Policy.DEFAULT),
            },
        )
        self.policy = NodePolicy(Policy(policy), tuple(nodes))
        self.inode.placement = self.policy

    def expose(self) -> HostView:
        """Map the file into this process, so that a forbidden access really faults."""
        if self._view is None:
            first = self.inode.private[0]
            side = Side.PRIVATE if first == PRIVATE else Side.SHARED
            self._view = HostView(self.inode.storage.fileno(), self.size, initially=side)
            for run in self.inode.private.runs(0, self.size // PAGE):
                if run.value != first:
                    self._view.convert(run.start, run.end, _side(run.value))
        return self._view

    def converted(self, start: int, end: int, value: int) -> None:
        """Follow a conversion of the file."""
        if self._view is not None:
            self._view.convert(start, min(end, self.size // PAGE), _side(value))

    def punched(self, start: int, end: int) -> None:
        """Follow a hole in the file."""
        if self._view is not None:
            for run in self.inode.private.runs(start, min(end, self.size // PAGE)):
                self._view.punched(run.start, run.end, _side(run.value))

    def close(self) -> None:
        """Unmap; the last reference to the file frees its pages."""
        if self in self.inode.mappings:
            self.inode.mappings.remove(self)
            if self._view is not None:
                self._view.close()
            self._file.drop()


def map_file(file: OpenFile, size: int, protection: int, flags: int) -> HostMapping:
    """Do mmap() of a guest_memfd from its start; raise a Refusal where the real call fails."""
    inode = file.inode
    if not isinstance(inode, GuestMemfd):
        raise TypeError("only a guest_memfd has host mappings")
    inode.require(
        "mmap",
        {
            "exec": bool(protection & mmap.PROT_EXEC),
            "not-mappable": not inode.mappable,
            "copy-on-write": not flags & mmap.MAP_SHARED,
        },
    )
    return HostMapping(file, size)


def _side(value: int) -> Side:
    return Side.PRIVATE if value == PRIVATE else Side.SHARED
