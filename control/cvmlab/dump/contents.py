# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump has of the guest's memory, as pieces, each with the file that it is in.  Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cvmlab.memory.ranges import PAGE_SIZE, Slot
from cvmlab.memory.states import Layout, PageState
from cvmlab.memory.table import PageRun


class Holder(StrEnum):
    """Where the content of pages is: one of the memory files, or nowhere."""

    PRIVATE = "private file"
    SHARED = "shared file"
    NOBODY = "nobody"  # never accepted, or an error page


class Reach(StrEnum):
    """What of the guest's memory a dump takes."""

    ALL = "all"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Piece:
    """Guest memory ``[gpa, gpa + size)``, which is at *offset* of the holder's file."""

    gpa: int
    offset: int
    size: int
    holder: Holder

    @property
    def end(self) -> int:
        return self.gpa + self.size


def holder_of(state: PageState, layout: Layout) -> Holder:
    """Return which file has the content of a page in *state*."""
    match state:
        case PageState.PRIVATE:
            return Holder.PRIVATE
        case PageState.SHARED:
            return Holder.SHARED if layout is Layout.SPLIT else Holder.PRIVATE
        case PageState.PENDING | PageState.POISONED:
            return Holder.NOBODY


def pieces(
    slots: Sequence[Slot], runs: Iterable[PageRun], layout: Layout, reach: Reach
) -> Iterator[Piece]:
    """Yield what a dump has of memory, by address within each slot; neighbours are joined.

    *runs* cover the memory files in order.  With Reach.ALL that is every page of the slots, those
    without content among them; with Reach.SHARED it is the shared pages alone.
    """
    held: Piece | None = None
    for piece in _cut(slots, runs, layout, reach):
        if held is not None and _continues(held, piece):
            held = Piece(held.gpa, held.offset, held.size + piece.size, held.holder)
            continue
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held


def _continues(one: Piece, two: Piece) -> bool:
    return (one.end, one.offset + one.size, one.holder) == (two.gpa, two.offset, two.holder)


def _cut(
    slots: Sequence[Slot], runs: Iterable[PageRun], layout: Layout, reach: Reach
) -> Iterator[Piece]:
    by_offset = sorted(slots, key=lambda slot: slot.offset)
    for run in runs:
        if reach is Reach.SHARED and run.state is not PageState.SHARED:
            continue
        start, end = run.first * PAGE_SIZE, (run.first + run.count) * PAGE_SIZE
        for slot in by_offset:
            low, high = max(start, slot.offset), min(end, slot.offset + slot.size)
            if low < high:
                gpa = slot.gpa + low - slot.offset
                yield Piece(gpa, low, high - low, holder_of(run.state, layout))


@dataclass(frozen=True, slots=True)
class Extent:
    """Guest memory that a dump has in one piece, with what is in it."""

    gpa: int
    size: int
    pieces: tuple[Piece, ...]


def extents(found: Iterable[Piece]) -> list[Extent]:
    """Group pieces that follow each other in guest memory."""
    groups: list[list[Piece]] = []
    for piece in sorted(found, key=lambda piece: piece.gpa):
        if groups and groups[-1][-1].end == piece.gpa:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [Extent(group[0].gpa, group[-1].end - group[0].gpa, tuple(group)) for group in groups]
