# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be asked of a running VM, over whichever QMP connection.

Ranges go over in batches: one command carries thousands of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec
import numpy as np

from cvmlab.bootspec import AccessPolicy
from cvmlab.choices import choose
from cvmlab.errors import PluginError
from cvmlab.machine import BACKEND_ID
from cvmlab.pages import Slot, StateRun
from cvmlab.qmp import DEFAULT_TIMEOUT_S
from cvmlab.ranges import PAGE_SIZE, GpaRange, require_ranges
from cvmlab.states import PageState


RangesLike = GpaRange | str | Iterable[GpaRange | str]
BATCH_RANGES = 8192
_VECTOR_MINIMUM = 64


class Target(StrEnum):
    """What to convert to."""

    SHARED = "shared"
    PRIVATE = "private"


class Content(StrEnum):
    """What becomes of the content on conversion."""

    DISCARD = "discard"
    PRESERVE = "preserve"


class Invalidation(StrEnum):
    """Around a change by the host: the guest's CPUs stand still between the two."""

    START = "start"
    END = "end"


class _Reply(msgspec.Struct, frozen=True, rename="kebab"):
    """A QMP object; members that a newer plugin adds are ignored."""


class PagesReply(_Reply, frozen=True):
    pending: int
    private: int
    shared: int
    poisoned: int


class CountersReply(_Reply, frozen=True, rename="kebab"):
    accepted: int
    to_shared: int
    to_private: int
    discarded: int
    poisoned: int
    loaded: int
    conversions: int
    host_faults: int
    host_accesses: int
    guest_faults: int
    guest_violations: int
    resets: int
    implicit_conversions: int
    events_dropped: int


class ActorCount(_Reply, frozen=True):
    """Host accesses of one actor; ``index`` is what stands for it in the event ring."""

    actor: str
    id: str
    index: int
    faults: int
    converted: int


class SlotReply(_Reply, frozen=True):
    gpa: int
    offset: int
    size: int


class BackendInfo(_Reply, frozen=True, rename="kebab"):
    """Answer of query-restricted-memory for one backend; sizes in bytes."""

    id: str
    size: int
    profile: str
    layout: str
    policy: str
    phase: str
    debuggable: bool
    pages: PagesReply
    counters: CountersReply
    actors: list[ActorCount]
    slots: list[SlotReply]
    private_bytes: int
    shared_bytes: int

    @property
    def memory_slots(self) -> list[Slot]:
        return [Slot(slot.gpa, slot.offset, slot.size) for slot in self.slots]

    @property
    def devices(self) -> dict[int, str]:
        """Names of the actors by their index in the event ring."""
        return {actor.index: actor.id for actor in self.actors}


class Execute(Protocol):
    """Qmp.execute(), or something in front of it."""

    async def __call__(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = ...
    ) -> Any: ...


class Operations:
    """The operations, for a VM of ours (Vm) and for one in another terminal (AttachedVm)."""

    ram: Sequence[GpaRange] = ()

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def command(
        self,
        name: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Run one QMP command; errors are those of Qmp.execute()."""
        return await self._execute(name, arguments, timeout_s=timeout_s)

    async def qmp(self, name: str, **arguments: object) -> Any:
        """Run any QMP command, as it is; ``_`` in an argument's name becomes ``-``."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        return await self.command(name, named or None)

    async def pause(self) -> None:
        """Stop the guest's CPUs."""
        await self.command("stop")

    async def cont(self) -> None:
        """Let the guest's CPUs run."""
        await self.command("cont")

    async def query(self) -> BackendInfo:
        """Describe the VM's restricted memory."""
        return one_backend(await self.command("query-restricted-memory"))

    async def query_runs(
        self, within: GpaRange | None = None, *, limit: int = 4096
    ) -> list[StateRun]:
        """Return at most *limit* runs of equal state, asked of QEMU; Pages.runs() is cheaper."""
        where = {} if within is None else {"gpa": within.start, "size": within.size}
        reply = await self.command(
            "query-restricted-memory-ranges", {"id": BACKEND_ID, "limit": limit, **where}
        )
        return [
            StateRun(GpaRange(run["gpa"], run["size"]), PageState.of(run["state"])) for run in reply
        ]

    async def convert(
        self, ranges: RangesLike, to: Target | str, *, content: Content | str | None = None
    ) -> int:
        """Convert *ranges*; return how many pages changed.

        When this returns, every vCPU and device sees the new state.  Batches of 8192 ranges are
        converted all or none; a refused batch leaves those before it converted.
        """
        extra = {"to": choose("target", to, Target)}
        if content is not None:
            extra["content"] = choose("content", content, Content)
        return await self._change("restricted-memory-convert", ranges, extra)

    async def accept(self, ranges: RangesLike) -> int:
        """Accept pending pages in the guest's stead; return how many pages changed."""
        return await self._change("restricted-memory-accept", ranges, {})

    async def discard(self, ranges: RangesLike) -> int:
        """Punch holes: the content is gone; return how many pages changed state."""
        return await self._change("restricted-memory-discard", ranges, {})

    async def poison(self, ranges: RangesLike) -> int:
        """Make error pages; return how many pages changed."""
        return await self._change("restricted-memory-poison", ranges, {})

    async def invalidate(self, event: Invalidation, ranges: RangesLike) -> None:
        """Begin or end a change of *ranges* by the host; each begin needs an end."""
        listed = [{"gpa": item.start, "size": item.size} for item in read_ranges(ranges)]
        await self.command(
            "restricted-memory-invalidate", {"id": BACKEND_ID, "event": event, "ranges": listed}
        )

    async def set_policy(self, policy: AccessPolicy | str) -> None:
        """Change what happens when the host touches private memory."""
        word = choose("policy", policy, AccessPolicy)
        await self.command("restricted-memory-set-policy", {"id": BACKEND_ID, "policy": word})

    async def _change(self, command: str, ranges: RangesLike, extra: Mapping[str, str]) -> int:
        wanted = read_ranges(ranges)
        self._require(wanted)
        pages = 0
        for batch in _batches(wanted):
            listed = [{"gpa": item.start, "size": item.size} for item in batch]
            reply = await self.command(command, {"id": BACKEND_ID, **extra, "ranges": listed})
            pages += reply["pages"]
        return pages

    def _require(self, ranges: Sequence[GpaRange]) -> None:
        if len(ranges) < _VECTOR_MINIMUM or not _plainly_good(ranges, self.ram):
            require_ranges(ranges, self.ram)


def one_backend(reply: Any) -> BackendInfo:
    """Read the answer of query-restricted-memory; raise PluginError if it makes no sense."""
    try:
        backends = msgspec.convert(reply, list[BackendInfo])
    except msgspec.ValidationError as error:
        raise PluginError(
            f"the plugin's description of its memory makes no sense: {error}"
        ) from error
    if not backends:
        raise PluginError("this VM has no restricted memory", hint="boot it with --coco generic")
    return backends[0]


def read_ranges(ranges: RangesLike) -> list[GpaRange]:
    """Return *ranges* as a list; text is read as GpaRange.parse() does."""
    if isinstance(ranges, GpaRange | str):
        ranges = [ranges]
    return [GpaRange.parse(item) if isinstance(item, str) else item for item in ranges]


def _batches(ranges: Sequence[GpaRange]) -> Iterator[Sequence[GpaRange]]:
    for first in range(0, len(ranges), BATCH_RANGES):
        yield ranges[first : first + BATCH_RANGES]


def _plainly_good(ranges: Sequence[GpaRange], ram: Sequence[GpaRange]) -> bool:
    """Check many ranges fast; require_ranges() then says what is wrong, if anything."""
    starts = np.fromiter((item.start for item in ranges), np.uint64, len(ranges))
    sizes = np.fromiter((item.size for item in ranges), np.uint64, len(ranges))
    order = np.argsort(starts)
    ends = starts + sizes  # wraps only for the very last byte, and then it fails below
    disjoint = (ends[order][:-1] <= starts[order][1:]).all()
    aligned = not ((starts | sizes) % PAGE_SIZE).any()
    inside = np.zeros(len(ranges), np.bool_)
    for part in ram:
        inside |= (starts >= part.start) & (ends <= part.end) & (ends > starts)
    return bool(disjoint and aligned and inside.all())
