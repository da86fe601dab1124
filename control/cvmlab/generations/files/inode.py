# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine: one restricted file with its pages, bindings, pins and references.

Each generation subclasses Inode.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NoReturn, Protocol

from cvmlab.base.errors import InvariantError
from cvmlab.generations.faults import FaultKind, FaultPlan
from cvmlab.generations.files.bindings import Binding, Bindings
from cvmlab.generations.files.pins import PinLedger
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.trace import Trace


if TYPE_CHECKING:
    from collections.abc import Iterator

    from cvmlab.generations.files.bindings import Notifier
    from cvmlab.generations.files.storage import Storage
    from cvmlab.generations.rulebook import Facts, Rulebook

MAX_BYTES = (1 << 63) - 1
HUGE_PAGES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """The process that makes a call."""

    name: str = "vmm"


@dataclass(slots=True)
class World:
    """State shared by all files of one emulated kernel.

    ``files`` counts those that exist: while there is one, the kernel module cannot be unloaded.
    """

    rules: Rulebook
    faults: FaultPlan = field(default_factory=FaultPlan)
    trace: Trace = field(default_factory=Trace)
    process: Process = field(default_factory=Process)
    nodes: int = 1
    files: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), init=False)

    def next_number(self) -> int:
        return next(self._numbers)

    @contextmanager
    def running_as(self, process: Process) -> Iterator[None]:
        """Make the calls of the body as another process."""
        before, self.process = self.process, process
        try:
            yield
        finally:
            self.process = before


@dataclass(frozen=True, slots=True)
class Page:
    """The page that a user of the file gets for one index.

    ``pfn`` identifies the page, ``sequence`` says when it was looked up: see Inode.still_valid().
    """

    index: int
    order: int
    pfn: int
    node: int
    sequence: int


@dataclass(frozen=True, slots=True)
class FileStat:
    """The part of struct stat that generations differ in; sizes in bytes, ``blocks`` of 512."""

    mode: int
    nlink: int
    size: int
    blksize: int
    blocks: int
    dev: int
    ino: int


class Placement(Protocol):
    """Chooses the NUMA node of a page."""

    def node_for(self, index: int) -> int: ...


class FirstNode:
    """The placement of a host with one node."""

    def node_for(self, index: int) -> int:
        del index
        return 0


class Inode:
    """One file, however many descriptors it has.  Freed with its last reference."""

    def __init__(self, world: World, storage: Storage, size: int = 0) -> None:
        self.world = world
        self.storage = storage
        self.size = size
        self.number = world.next_number()
        world.files += 1
        self.bindings = Bindings()
        self.pins = PinLedger()
        self.poisoned: set[int] = set()
        self.references = 0
        self.sequence = 0
        self.changing: int | None = None
        self.placement: Placement = FirstNode()
        self.node_of: dict[int, int] = {}

    @property
    def rules(self) -> Rulebook:
        return self.world.rules

    @property
    def evicted(self) -> bool:
        return self.storage.closed

    @property
    def pages(self) -> int:
        return self.size // PAGE

    def hold(self) -> None:
        self.references += 1

    def drop(self) -> None:
        """Drop a reference; the last one frees the pages."""
        self.references -= 1
        if not self.references:
            self.evict()

    def evict(self) -> None:
        """Free everything.  Runs once, after the last reference and the last binding are gone."""
        self.world.trace.note("evict", 0, self.pages)
        self.world.files -= 1
        self.storage.close()

    def require(self, operation: str, facts: Facts, start: int = 0, end: int = 0) -> None:
        """Raise and trace a Refusal if *facts* break a rule of *operation*."""
        rule = self.world.rules.first_broken(operation, facts)
        if rule is not None:
            refusal = rule.refusal(f"at {start:#x}-{end:#x}" if end else "")
            self.world.trace.note(operation, start // PAGE, end // PAGE, rule.errno, str(refusal))
            raise refusal

    def populate(self, start: int, end: int) -> None:
        """Back page indexes ``[start, end)``, unless a planned fault prevents it."""
        faults, trace = self.world.faults, self.world.trace
        if fault := faults.take(FaultKind.NO_MEMORY, end - start):
            trace.note("fault", start, end, fault.kind, fault.reason)
            self.require("populate", {"no-memory": True, "interrupted": False})
        if fault := faults.take(FaultKind.PARTIAL, end - start):
            kept = min(start + fault.page, end)
            if kept > start:
                self._populate(start, kept)
            trace.note("fault", start, kept, fault.kind, fault.reason)
            self.require("populate", {"no-memory": False, "interrupted": True})
        self._populate(start, end)
        trace.note("populate", start, end)

    def back(self, start: int, end: int) -> None:
        """Back the holes of ``[start, end)``, as a touch does."""
        for run in list(self.storage.absent(start, end)):
            self.populate(run.start, run.end)

    def _populate(self, start: int, end: int) -> None:
        if self.world.nodes > 1:
            for run in self.storage.absent(start, end):
                for index in range(run.start, run.end):
                    self.node_of[index] = self.placement.node_for(index)
        self.storage.allocate(start, end)

    def release(self, start: int, end: int) -> None:
        """Free pages ``[start, end)`` without notifying the bindings."""
        if start < end:
            self.storage.free(start, end)
            for index in [item for item in self.node_of if start <= item < end]:
                del self.node_of[index]
            self.poisoned = {item for item in self.poisoned if not start <= item < end}
            self.world.trace.note("free", start, end)

    @contextmanager
    def invalidated(
        self, start: int, end: int, *, newest_first: bool = False
    ) -> Iterator[list[Binding]]:
        """Run the body between balanced calls to the bindings that overlap ``[start, end)``."""
        trace, bindings = self.world.trace, self.bindings
        trace.note("invalidate", start, end)
        fault = self.world.faults.take(FaultKind.SLOW_INVALIDATE, end - start)
        concerned = bindings.overlapping(start, end)
        if newest_first:
            concerned.reverse()
        told: list[Binding] = []
        self.sequence += 1
        bindings.running += 1
        try:
            for item in concerned:
                item.notifier.invalidate_start(start, end)
                told.append(item)
            if fault:
                trace.note("fault", start, end, fault.kind, fault.reason)
                fault.meanwhile()
            yield told
        finally:
            for item in told:
                item.notifier.invalidate_end(start, end)
            bindings.running -= 1
            self.sequence += 1

    def bind(self, binding: Binding) -> None:
        """Add a binding; the caller has made the checks of its generation."""
        self.require("lock", {"invalidating": self.bindings.running > 0})
        self.bindings.add(binding)
        self.world.trace.note("bind", binding.start, binding.end)

    def unbind(self, binding: Binding) -> None:
        self.require("lock", {"invalidating": self.bindings.running > 0})
        self.bindings.remove(binding)
        self.world.trace.note("unbind", binding.start, binding.end)

    def attach(self, start: int, end: int, notifier: Notifier) -> Binding:
        """Bind pages ``[start, end)`` for a slot, after the checks of the generation."""
        binding = Binding(start, end, notifier, notifier)
        self.bind(binding)
        return binding

    def order_of(self, index: int) -> int:
        """Return log2 of the size, in 4 KiB pages, of the folio at *index*."""
        del index
        return 0

    def node_at(self, index: int) -> int:
        """Return the NUMA node of an allocated page."""
        return self.node_of.get(index, 0)

    def page(self, index: int) -> Page:
        """Return the page at *index*; allocate it if it is a hole."""
        self.back(index, index + 1)
        if fault := self.world.faults.take(FaultKind.POISONED, 1):
            self.poisoned.add(index)
            self.world.trace.note("fault", index, index + 1, fault.kind, fault.reason)
        pfn = self.number << 40 | index
        return Page(index, self.order_of(index), pfn, self.node_at(index), self.sequence)

    def still_valid(self, page: Page) -> bool:
        """Return whether a page may still be mapped: no invalidation has run since, or is running."""
        return page.sequence == self.sequence and not self.bindings.running

    def poison(self, index: int) -> None:
        """Report a memory error in the page at *index* to its bindings; the page is kept."""
        self.poisoned.add(index)
        size = 1 << self.order_of(index)
        start = index - index % size
        self.world.trace.note("poison", start, start + size)
        for binding in self.bindings.overlapping(start, start + size):
            binding.notifier.error(start, start + size)

    def refuse(self, call: str, *arguments: object) -> NoReturn:
        """Refuse a file operation that this kind of file does not implement."""
        rule = self.rules.first_broken("file", defaultdict(bool, {call: True}))
        if rule is None:
            raise InvariantError(f"no rule covers {call}{arguments}")
        self.world.trace.note(call, 0, 0, rule.errno, rule.says)
        raise rule.refusal(f"{call}{arguments}")

    def read(self, offset: int, size: int) -> bytes:
        self.refuse("read", offset, size)

    def write(self, offset: int, data: bytes) -> int:
        self.refuse("write", offset, len(data))

    def truncate(self, size: int) -> None:
        self.refuse("ftruncate", size)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        self.refuse("fallocate", mode, offset, length)

    def stat(self) -> FileStat:
        """Describe the file as fstat() does."""
        blocks = self.storage.usage.known_bytes // 512
        return FileStat(0o100600, 1, self.size, PAGE, blocks, 1, self.number)
