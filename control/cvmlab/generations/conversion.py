# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversion in place: KVM_SET_MEMORY_ATTRIBUTES2 and its relatives on the guest_memfd itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import TYPE_CHECKING

from cvmlab.generations.faults import FaultKind
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd, unaligned
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.guest_view import GuestView
from cvmlab.generations.vms.kvm import PRIVATE_ATTRIBUTE
from cvmlab.generations.vms.slots import U64


if TYPE_CHECKING:
    from cvmlab.generations.refusal import Refusal


class ContentFlag(IntFlag):
    """What a conversion promises about the content (RFC only)."""

    ZERO = 1
    PRESERVE = 2


class Unspecified(StrEnum):
    """What the emulation does to content that no promise covers."""

    KEEP = "keep"
    SCRAMBLE = "scramble"  # exposes guests and VMMs that rely on it


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """The ioctl's argument: a range of the file in bytes, and its new attributes."""

    offset: int
    size: int
    attributes: int
    flags: int = 0
    reserved: int = 0
    error_offset: int = 0

    @property
    def value(self) -> int:
        return PRIVATE if self.attributes & PRIVATE_ATTRIBUTE else SHARED


def convert(
    inode: GuestMemfd, wanted: ConvertRequest | None, unspecified: Unspecified = Unspecified.KEEP
) -> None:
    """Make a range of the file private or shared.

    :raise Refusal: no attribute has changed, except where a generation works in batches;
        ``error_offset`` is the first byte that was not converted.
    """
    _check(inode, wanted)
    if wanted is None or not wanted.size:
        return
    start, end = wanted.offset // PAGE, (wanted.offset + wanted.size) // PAGE
    if inode.private.uniform(start, end, wanted.value):
        _apply_content(inode, wanted, start, end, changed=False, unspecified=unspecified)
        return
    apply(inode, wanted.value, start, end)
    _apply_content(inode, wanted, start, end, changed=True, unspecified=unspecified)


def apply(inode: GuestMemfd, value: int, start: int, end: int) -> None:
    """Convert pages ``[start, end)``; the arguments have been checked.

    :raise Refusal: as convert().
    """
    if inode.world.faults.take(FaultKind.NO_MEMORY, end - start):
        raise refusal_of(inode, "no-memory", start * PAGE, start, end)
    for low, high in inode.batches(start, end):
        _convert_batch(inode, value, low, high)


def _convert_batch(inode: GuestMemfd, value: int, start: int, end: int) -> None:
    if value == PRIVATE:
        for mapping in inode.mappings:
            mapping.converted(start, end, PRIVATE)
        held = _first_held(inode, start, end)
        if held is not None:
            for run in inode.private.find(start, end, SHARED):
                for mapping in inode.mappings:
                    mapping.converted(run.start, run.end, SHARED)
            raise refusal_of(inode, "held", max(start, held) * PAGE, start, end)
    inode.changing = PRIVATE - value
    try:
        with inode.invalidated(start, end):
            inode.store(start, end, value)
    finally:
        inode.changing = None
    if value == SHARED:
        for mapping in inode.mappings:
            mapping.converted(start, end, SHARED)
    inode.world.trace.note("to-private" if value else "to-shared", start, end)


def _first_held(inode: GuestMemfd, start: int, end: int) -> int | None:
    """Return the first page of the lowest pinned folio, by the ledger or by a planned fault."""
    faults, trace = inode.world.faults, inode.world.trace
    held = []
    if (pin := inode.pins.first(start, end)) is not None:
        trace.note("held", pin.start, pin.end, "refused", f"{pin.who}, {pin.hold}")
        held.append(max(pin.start, start))
    for kind in (FaultKind.CONVERT_AGAIN, FaultKind.PINNED):
        if fault := faults.take(kind, end - start):
            page = min(start + fault.page, end - 1)
            trace.note("fault", page, page + 1, fault.kind, fault.reason)
            held.append(page)
    return inode.folio_start(min(held)) if held else None


def refusal_of(inode: GuestMemfd, fact: str, offset: int, start: int, end: int) -> Refusal:
    """Return the refusal of a conversion that *fact* stops, and add it to the trace."""
    facts = {"no-memory": False, "held": False} | {fact: True}
    rule = inode.rules.first_broken("convert-store", facts)
    if rule is None:
        raise TypeError(f"no rule covers {fact} in a conversion")
    inode.world.trace.note("convert", start, end, rule.errno, rule.says)
    return rule.refusal(f"at offset {offset:#x}", offset)


def _check(inode: GuestMemfd, wanted: ConvertRequest | None) -> None:
    asked = wanted or ConvertRequest(0, 0, 0)
    empty_is_fine = inode.rules.switch("empty-convert") and not asked.size
    end = asked.offset + asked.size
    known = 3 if inode.rules.switch("content-modes") else 0
    owner = inode.owner
    facts = {
        "not-built": not inode.tracks_attributes,
        "bad-pointer": wanted is None,
        "error-offset-set": asked.error_offset != 0,
        "flags-both": asked.flags & 3 == 3,
        "flags-unknown": bool(asked.flags & ~known),
        "reserved": asked.reserved != 0,
        "no-private-memory": isinstance(owner, GuestView) and not owner.kind.has_private_memory,
        "attribute": bool(asked.attributes & ~PRIVATE_ATTRIBUTE),
        "empty": not empty_is_fine and (asked.size <= 0 or asked.offset < 0 or end >= U64),
        "unaligned": not empty_is_fine and unaligned(asked.offset, asked.size),
        "beyond-size": not empty_is_fine and (asked.offset >= inode.size or end > inode.size),
    }
    inode.require("convert", facts, asked.offset, max(end, 0))
    if inode.rules.switch("content-modes"):
        _check_content(inode, asked)


def _check_content(inode: GuestMemfd, wanted: ConvertRequest) -> None:
    owner = inode.owner
    kind = owner.kind if isinstance(owner, GuestView) else VmType.DEFAULT
    early = isinstance(owner, GuestView) and not owner.finalized and wanted.value == PRIVATE
    rule = inode.rules.first_broken(
        "content",
        {
            "zero-to-private": bool(wanted.flags & ContentFlag.ZERO) and wanted.value == PRIVATE,
            "preserve-impossible": bool(wanted.flags & ContentFlag.PRESERVE)
            and kind.guest_chooses
            and not early,
        },
    )
    if rule is not None:
        raise rule.refusal(f"at offset {wanted.offset:#x}", wanted.offset)


def _apply_content(
    inode: GuestMemfd,
    wanted: ConvertRequest,
    start: int,
    end: int,
    *,
    changed: bool,
    unspecified: Unspecified,
) -> None:
    """Zero or scramble allocated pages, including those that had the attribute already."""
    zero = bool(wanted.flags & ContentFlag.ZERO)
    scramble = (
        changed
        and inode.rules.switch("content-modes")
        and not wanted.flags
        and unspecified is Unspecified.SCRAMBLE
    )
    if not zero and not scramble:
        return
    for run in list(inode.storage.present(start, end)):
        length = (run.end - run.start) * PAGE
        data = random.Random(run.start).randbytes(length) if scramble else bytes(length)
        inode.storage.write(run.start * PAGE, data)
