# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations on a running VM over a QMP connection.

Ranges are sent in batches: one command has thousands of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec
import numpy as np

from cvmlab.base.choices import choose
from cvmlab.base.errors import PluginError
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.machine.spec import AccessPolicy
from cvmlab.memory.page_check import StateRun
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, Slot, require_ranges
from cvmlab.memory.states import PageState
from cvmlab.vm.qmp import DEFAULT_TIMEOUT_S


RangesLike = GpaRange | str | Iterable[GpaRange | str]
BATCH_RANGES = 8192
_VECTOR_MINIMUM = 64


class Target(StrEnum):
    """The state to convert to."""

    SHARED = "shared"
    PRIVATE = "private"


class Content(StrEnum):
    """The content of pages after a conversion."""

    DISCARD = "discard"
    PRESERVE = "preserve"


class Invalidation(StrEnum):
    """Start and end of a change by the host; the guest's CPUs are paused in between."""

    START = "start"
    END = "end"


class _Reply(msgspec.Struct, frozen=True, rename="kebab"):
    """A QMP object; unknown members, which a newer plugin may add, are ignored."""


class PagesReply(_Reply, frozen=True):
    pending: int
    private: int
    shared: int
    poisoned: int


class ActorCount(_Reply, frozen=True):
    """Host accesses of one actor; ``index`` is its number in the event ring."""

    actor: str
    id: str
    index: int
    faults: int
    converted: int


class SlotReply(_Reply, frozen=True):
    gpa: int
    offset: int
    size: int


class StopReason(StrEnum):
    """Why the plugin stopped a guest."""

    GUEST_FAULT = "guest-fault"
    HOST_ACCESS = "host-access"
    MISUSE = "misuse"
    FATAL_ERROR = "fatal-error"
    TRIPLE_FAULT = "triple-fault"
    ASKED = "asked"  # restricted-memory-stop-at


class Stop(_Reply, frozen=True):
    """What stopped the guest; ``text`` is a sentence."""

    reason: StopReason
    text: str
    vcpu: int | None = None
    pc: int | None = None


class BackendInfo(_Reply, frozen=True, rename="kebab"):
    """The answer of query-restricted-memory for one backend; sizes in bytes."""

    id: str
    size: int
    profile: str
    layout: str
    policy: str
    phase: str
    debuggable: bool
    pages: PagesReply
    counters: dict[str, int]  # by their words in QMP, such as to-shared
    actors: list[ActorCount]
    slots: list[SlotReply]
    private_bytes: int
    shared_bytes: int
    late: bool = False  # firmware runs unprotected, until the guest asks for its realm
    stopped: Stop | None = None  # why the guest cannot go on

    @property
    def memory_slots(self) -> list[Slot]:
        return [Slot(slot.gpa, slot.offset, slot.size) for slot in self.slots]

    @property
    def devices(self) -> dict[int, str]:
        """Names of the actors by their index in the event ring."""
        return {actor.index: actor.id for actor in self.actors}


class CoreFacts(_Reply, frozen=True, rename="kebab"):
    """What a dump has beside memory: restricted-memory-dump in the QMP schema describes it."""

    machine: int
    notes: str
    view_bit: int


class Execute(Protocol):
    """The interface of Qmp.execute()."""

    async def __call__(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float = ...
    ) -> Any: ...


class Operations:
    """The operations, for this process's VM (Vm) and for another process's (AttachedVm)."""

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
        """Run any QMP command; ``_`` in an argument's name becomes ``-``."""
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

    async def describe_core(self, *, private: bool) -> CoreFacts:
        """Announce a dump, of *private* memory as well or of shared memory alone, and describe the
        rest of the VM.

        :raise CommandRefused: *private* is asked for, and the VM is not debuggable.
        """
        reply = await self.command("restricted-memory-dump", {"id": BACKEND_ID, "private": private})
        try:
            return msgspec.convert(reply, CoreFacts)
        except msgspec.ValidationError as error:
            raise PluginError(
                f"the answer to restricted-memory-dump makes no sense: {error}"
            ) from error

    async def query_runs(
        self, within: GpaRange | None = None, *, limit: int = 4096
    ) -> list[StateRun]:
        """Ask QEMU for at most *limit* runs of equal state; Pages.runs() is faster."""
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
        """Convert *ranges*; return the number of pages that changed.

        When this returns, every vCPU and device sees the new state.  A batch of 8192 ranges is
        converted as a whole or not at all; batches before a refused one stay converted.
        """
        extra = {"to": choose("target", to, Target)}
        if content is not None:
            extra["content"] = choose("content", content, Content)
        return await self._change("restricted-memory-convert", ranges, extra)

    async def accept(self, ranges: RangesLike) -> int:
        """Accept pending pages for the guest; return the number of pages that changed."""
        return await self._change("restricted-memory-accept", ranges, {})

    async def discard(self, ranges: RangesLike) -> int:
        """Punch holes, which loses the content; return the number of pages that changed state."""
        return await self._change("restricted-memory-discard", ranges, {})

    async def poison(self, ranges: RangesLike) -> int:
        """Turn pages into error pages; return the number of pages that changed."""
        return await self._change("restricted-memory-poison", ranges, {})

    async def invalidate(self, event: Invalidation, ranges: RangesLike) -> None:
        """Start or end a change of *ranges* by the host; each start needs an end."""
        listed = [{"gpa": item.start, "size": item.size} for item in read_ranges(ranges)]
        await self.command(
            "restricted-memory-invalidate", {"id": BACKEND_ID, "event": event, "ranges": listed}
        )

    async def set_policy(self, policy: AccessPolicy | str) -> None:
        """Set the policy for host accesses to private memory."""
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
            f"the answer to query-restricted-memory makes no sense: {error}"
        ) from error
    if not backends:
        raise PluginError("this VM has no restricted memory", hint="boot it with --coco generic")
    return backends[0]


def read_stop(event: Mapping[str, Any]) -> Stop:
    """Read the data of RESTRICTED_MEMORY_STOPPED; raise PluginError if it makes no sense."""
    try:
        return msgspec.convert(event.get("stop"), Stop)
    except msgspec.ValidationError as error:
        raise PluginError(f"RESTRICTED_MEMORY_STOPPED makes no sense: {error}") from error


def read_ranges(ranges: RangesLike) -> list[GpaRange]:
    """Return *ranges* as a list; GpaRange.parse() reads text."""
    if isinstance(ranges, GpaRange | str):
        ranges = [ranges]
    return [GpaRange.parse(item) if isinstance(item, str) else item for item in ranges]


def _batches(ranges: Sequence[GpaRange]) -> Iterator[Sequence[GpaRange]]:
    for first in range(0, len(ranges), BATCH_RANGES):
        yield ranges[first : first + BATCH_RANGES]


def _plainly_good(ranges: Sequence[GpaRange], ram: Sequence[GpaRange]) -> bool:
    """Check many ranges fast; if this fails, require_ranges() names the mistake."""
    starts = np.fromiter((item.start for item in ranges), np.uint64, len(ranges))
    sizes = np.fromiter((item.size for item in ranges), np.uint64, len(ranges))
    order = np.argsort(starts)
    ends = (
        starts + sizes
    )  # wraps only at the end of the address space, and then the check below fails
    disjoint = (ends[order][:-1] <= starts[order][1:]).all()
    aligned = not ((starts | sizes) % PAGE_SIZE).any()
    inside = np.zeros(len(ranges), np.bool_)
    for part in ram:
        inside |= (starts >= part.start) & (ends <= part.end) & (ends > starts)
    return bool(disjoint and aligned and inside.all())
