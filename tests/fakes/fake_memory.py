# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin's side of the memory files, in plain Python: a table, a ring, a few rules.

Standard library only, because the fake QEMU must start in the time of a unit test.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterable, Mapping


PAGE = 4096
RECORDS_OFFSET = 4096
RECORD = struct.Struct("<QQQQQIHHBBBBBBB9x")
MAGIC = 0x3152494E474D4552
HEAD, DROPPED, TAIL, PAGES, PHASE, COUNTERS = 64, 72, 128, 192, 224, 256
STATES = ("pending", "private", "shared", "poisoned")
COUNTER_NAMES = (
    "accepted", "to-shared", "to-private", "discarded", "poisoned", "loaded", "host-faults",
    "host-accesses", "guest-violations", "guest-faults", "conversions", "resets",
    "implicit-conversions", "kernel-calls", "early-calls",
)  # fmt: skip
NO_ONE = 0xFFFF
ACCEPT, CONVERT, DISCARD, POISON, HOST_FAULT, PHASE_BEGINS = 1, 2, 3, 4, 6, 9
VCPU, DEVICE, MONITOR = 0, 1, 3


class Refused(Exception):  # noqa: N818 - as in the product
    """A request the plugin refuses; the text is the description."""


class FakeMemory:
    """One backend: what ``-object memory-backend-restricted`` says, and its files."""

    def __init__(self, properties: Mapping[str, str], size: int) -> None:
        self.properties = properties
        self.size = size
        self.pages = size // PAGE
        self.table = mmap.mmap(int(properties["table-fd"]), self.pages)
        self.ring_fd = int(properties["ring-fd"])
        ring_bytes = os.fstat(self.ring_fd).st_size
        self.ring = mmap.mmap(self.ring_fd, ring_bytes)
        self.capacity = (ring_bytes - RECORDS_OFFSET) // RECORD.size
        struct.pack_into("<QIIQ", self.ring, 0, MAGIC, 2, RECORD.size, self.capacity)
        self.policy = properties.get("access-policy", "deny")
        self.stopped: dict[str, object] | None = None
        self._count_pages()

    def _u64(self, offset: int) -> int:
        return int(struct.unpack_from("Q", self.ring, offset)[0])

    def _set_u64(self, offset: int, value: int) -> None:
        # Native order is stored whole; "<Q" would be stored byte by byte, and read torn.
        struct.pack_into("Q", self.ring, offset, value)

    def _add(self, counter: str, amount: int) -> None:
        offset = COUNTERS + 8 * COUNTER_NAMES.index(counter)
        self._set_u64(offset, self._u64(offset) + amount)

    def _count_pages(self) -> None:
        states = self.table[:]
        struct.pack_into("<4q", self.ring, PAGES, *(states.count(state) for state in range(4)))

    def push(
        self, kind: int, gpa: int = 0, pages: int = 1, *, actor: int = VCPU, device: int = NO_ONE,
        before: int = 0, after: int = 0, flags: int = 0,
    ) -> None:  # fmt: skip
        """Publish a record, or count it as dropped."""
        head = self._u64(HEAD)
        if head - self._u64(TAIL) >= self.capacity:
            self._set_u64(DROPPED, self._u64(DROPPED) + 1)
            return
        now = time.monotonic_ns()
        offset = RECORDS_OFFSET + (head % self.capacity) * RECORD.size
        RECORD.pack_into(
            self.ring, offset, 0, now, now, gpa, 0, pages, 0 if actor == VCPU else NO_ONE, device,
            kind, actor, before, after, 0, 0, flags,
        )  # fmt: skip
        self._set_u64(HEAD, head + 1)
        self._set_u64(offset, head + 1)

    def push_many(self, count: int) -> None:
        for _ in range(count):
            self.push(ACCEPT)

    def claim_without_publishing(self) -> None:
        """Leave what a producer leaves that is killed half-way."""
        self._set_u64(HEAD, self._u64(HEAD) + 1)

    def begin_phase(self, phase: int) -> None:
        self._set_u64(PHASE, phase)
        self.push(PHASE_BEGINS, flags=phase)

    def touch(self, first: int, count: int) -> None:
        """The guest touches pages, each for itself."""
        for page in range(first, first + count):
            if self.table[page] == 0:
                self.table[page] = 1
                if self.properties.get("layout") == "split":  # storage is what the table says
                    os.posix_fallocate(int(self.properties["private-fd"]), page * PAGE, PAGE)
                self._add("accepted", 1)
                self.push(ACCEPT, page * PAGE, after=1)
        self._count_pages()

    def call(self, by: str) -> None:
        """The kernel, or what runs before it ("early"), uses the guest interface."""
        self._add(f"{by}-calls", 1)

    def host_fault(self, gpa: int) -> None:
        """A device reads private memory."""
        self._add("host-faults", 1)
        self._add("host-accesses", 1)
        self.push(HOST_FAULT, gpa, actor=DEVICE, device=3, before=1, after=1)

    def change(self, verb: str, ranges: Iterable[Mapping[str, int]], to: str = "") -> int:
        """Run one of the four operations; all or nothing; return pages changed."""
        spans = [self._span(item) for item in ranges]
        if verb != "discard" and any(3 in self.table[first:end] for first, end in spans):
            raise Refused("page-poisoned: a page in the range is poisoned")
        changed = sum(self._change_span(verb, to, first, end) for first, end in spans)
        self._count_pages()
        return changed

    def _span(self, item: Mapping[str, int]) -> tuple[int, int]:
        gpa, size = item["gpa"], item["size"]
        if gpa % PAGE or size % PAGE or size == 0:
            raise Refused(f"range at {gpa:#x} is not page-aligned")
        if gpa + size > self.size:
            raise Refused("out-of-range: beyond guest memory")
        return gpa // PAGE, (gpa + size) // PAGE

    def _change_span(self, verb: str, to: str, first: int, end: int) -> int:
        target, kind, counter = {
            "convert": (2 if to == "shared" else 1, CONVERT, f"to-{to}"),
            "accept": (1, ACCEPT, "accepted"),
            "discard": (0, DISCARD, "discarded"),
            "poison": (3, POISON, "poisoned"),
        }[verb]
        changed = end - first - self.table[first:end].count(target)
        self.table[first:end] = bytes([target]) * (end - first)
        self._add(counter, changed)
        self.push(kind, first * PAGE, end - first, actor=MONITOR, after=target)
        return changed

    def info(self) -> dict[str, object]:
        """Return the answer of query-restricted-memory."""
        counts = struct.unpack_from("<4q", self.ring, PAGES)
        counters = {
            name: self._u64(COUNTERS + 8 * index) for index, name in enumerate(COUNTER_NAMES)
        }
        return {
            "id": self.properties["id"],
            "size": self.size,
            "profile": self.properties["profile"],
            "layout": self.properties["layout"],
            "policy": self.policy,
            "phase": ("launch", "firmware", "efi-stub", "kernel", "user")[self._u64(PHASE)],
            "debuggable": False,
            "pages": dict(zip(STATES, counts, strict=True)),
            "counters": {**counters, "events-dropped": self._u64(DROPPED)},
            "actors": [{"actor": "device", "id": "disk0", "index": 3, "faults": 0, "converted": 0}],
            "slots": [{"gpa": 0, "offset": 0, "size": self.size}],
            "private-bytes": 0,
            "shared-bytes": 0,
            **({} if self.stopped is None else {"stopped": self.stopped}),
        }
