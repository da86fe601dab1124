# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest of an emulated VM sees: its frames, the exits it takes, and the VMM's replies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from cvmlab.generations.faults import FaultKind
from cvmlab.generations.files.bindings import Binding
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd, unaligned
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.refusal import Refusal, errno_value
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.vms.exits import ExitReason, HypercallExit, Path, VcpuExit, VmType
from cvmlab.generations.vms.slots import U64, Memslot, SlotFlags


if TYPE_CHECKING:
    from cvmlab.generations.files.inode import Inode, World
    from cvmlab.generations.files.storage import Storage


@dataclass(frozen=True, slots=True)
class Place:
    """The storage of one guest page."""

    storage: Storage
    offset: int


@dataclass(frozen=True, slots=True)
class Access:
    """The part of a guest access that lies in one page."""

    gpa: int
    size: int
    private: bool
    write: bool
    path: Path


class GuestView:
    """The guest's side of a VM.  An access that fails returns a VcpuExit and raises nothing."""

    def __init__(self, world: World, kind: VmType) -> None:
        self.world = world
        self.kind = kind
        self.slots: dict[int, Memslot] = {}
        self.attributes = RangeMap()
        self.mapped = RangeMap()  # per frame: 0 not mapped, 1 as shared, 2 as private
        self.machine_checks: list[int] = []
        self.invalidations = 0
        self.delayed = world.rules.switch("delayed-binding")
        self.finalized = False

    def zap(self, start: int, end: int, only: int | None = None) -> None:
        """Remove the guest's mappings of frames ``[start, end)``, all or those of one kind."""
        if only is None:
            self.mapped.set(start, end, 0)
        elif not self.mapped.uniform(start, end, 0):
            for run in list(self.mapped.find(start, end, only + 1)):
                self.mapped.set(run.start, run.end, 0)
        self.invalidations += 1
        self.world.trace.note("zap", start, end)

    def zapped(self) -> None:
        self.invalidations -= 1

    def machine_check(self, start: int, end: int) -> None:
        """Make the guest's next touch of these frames a machine check."""
        self.mapped.set(start, end, 0)
        self.machine_checks.append(start)

    def slot_of(self, frame: int) -> Memslot | None:
        return next((slot for slot in self.slots.values() if slot.covers(frame)), None)

    def is_private(self, frame: int) -> bool:
        """Return whether the frame is private, by the VMM's attributes or those of the file."""
        slot = self.slot_of(frame)
        inode = slot.inode if slot else None
        if slot and isinstance(inode, GuestMemfd) and inode.tracks_attributes:
            return self.kind.has_private_memory and inode.private[slot.index_of(frame)] != SHARED
        return self.attributes[frame] == 1

    def read(
        self, gpa: int, size: int = 8, *, private: bool | None = None, path: Path = Path.MMU
    ) -> bytes | VcpuExit:
        """Load as the guest.  *private* is the address bit of guests that have one."""
        found = b""
        for access in self._pieces(gpa, size, private=private, path=path, write=False):
            place = self._resolve(access)
            if isinstance(place, VcpuExit):
                return place
            found += place.storage.read(place.offset, access.size)
        return found

    def write(
        self, gpa: int, data: bytes, *, private: bool | None = None, path: Path = Path.MMU
    ) -> VcpuExit | None:
        """Store as the guest; bytes before a failing page are stored."""
        for access in self._pieces(gpa, len(data), private=private, path=path, write=True):
            place = self._resolve(access)
            if isinstance(place, VcpuExit):
                return place
            place.storage.write(place.offset, data[access.gpa - gpa :][: access.size])
        return None

    def _pieces(
        self, gpa: int, size: int, *, private: bool | None, path: Path, write: bool
    ) -> list[Access]:
        edges = [gpa, *range(gpa - gpa % PAGE + PAGE, gpa + size, PAGE), gpa + size]
        return [
            Access(low, high - low, self._meaning(low // PAGE, private=private), write, path)
            for low, high in pairwise(edges)
        ]

    def _meaning(self, frame: int, *, private: bool | None = None) -> bool:
        if self.kind.guest_chooses and private is not None:
            return private
        return self.is_private(frame) if self.kind.has_private_memory else False

    def _resolve(self, access: Access) -> Place | VcpuExit:
        frame = access.gpa // PAGE
        slot = self.slot_of(frame)
        if access.private != (self.kind.has_private_memory and self.is_private(frame)):
            return self._memory_fault(access)
        if slot is None:
            return self._memory_fault(access) if access.private else _mmio(access)
        if access.path is Path.MMU and (access.private or self._maps_file(slot)):
            return self._from_file(slot, access) if slot.has_file else self._memory_fault(access)
        return _from_userspace(slot, access)

    def _maps_file(self, slot: Memslot) -> bool:
        """Return whether shared accesses use the file too, as they do if it is mappable."""
        inode = slot.file.inode if slot.file else None
        return isinstance(inode, GuestMemfd) and inode.mappable

    def _from_file(self, slot: Memslot, access: Access) -> Place | VcpuExit:
        inode = slot.inode
        if inode is None:
            return self._memory_fault(access)
        frame = access.gpa // PAGE
        index = slot.index_of(frame)
        if (
            self.delayed
            and isinstance(inode, GuestMemfd)
            and (number := self._bind_late(slot, inode))
        ):
            return VcpuExit(number, ExitReason.NONE)
        try:
            page = inode.page(index)
        except Refusal as refusal:
            return VcpuExit(refusal.errno or 0, ExitReason.NONE)
        if index in inode.poisoned:
            return self._memory_fault(access, "EHWPOISON")
        if inode.still_valid(page):
            self.mapped.set(frame, frame + 1, 1 + access.private)
        return Place(inode.storage, index * PAGE + access.gpa % PAGE)

    def _bind_late(self, slot: Memslot, inode: GuestMemfd) -> int:
        """Bind at first use; return an errno if the file is taken (entries U2 and U7)."""
        bound = inode.bindings.overlapping(slot.first_page, slot.first_page + slot.frames)
        if "bind-checks-first-index" in self.world.rules.quirks:
            bound = inode.bindings.overlapping(slot.first_page, slot.first_page + 1)
        owned = inode.owner is not None and inode.owner is not self
        others = any(item.notifier is not slot for item in bound)
        rule = self.world.rules.first_broken(
            "first-touch", {"other-owner": owned, "other-slot": others}
        )
        if rule is not None:
            self.world.trace.note("first-touch", slot.first_page, 0, rule.errno, rule.says)
            return errno_value(rule.errno)
        if slot.binding is None:
            inode.owner = self
            self.bind_slot(slot, inode)
        return 0

    def bind_slot(self, slot: Memslot, inode: Inode) -> None:
        """Bind the slot to its range of the file, after the caller's checks."""
        binding = Binding(slot.first_page, slot.first_page + slot.frames, slot, slot.file)
        inode.bind(binding)
        slot.binding = binding
        if isinstance(inode, GuestMemfd):
            host_may_touch = self.kind is VmType.SW_PROTECTED
            inode.bound(binding.start, binding.end, SHARED if host_may_touch else PRIVATE)

    def _memory_fault(self, access: Access, error: str = "EFAULT") -> VcpuExit:
        bit = 1 << self.world.rules.number("exit-private-bit")
        gpa = access.gpa - access.gpa % PAGE
        flags = bit if access.private else 0
        self.world.trace.note("memory-fault", gpa // PAGE, gpa // PAGE + 1, error)
        return VcpuExit(errno_value(error), ExitReason.MEMORY_FAULT, flags, gpa, PAGE, access.write)

    def hypercall_map_range(self, gpa: int, pages: int, attributes: int) -> HypercallExit:
        """The guest asks for a conversion; the VMM does it and answers in ``ret``."""
        return HypercallExit(gpa, pages, attributes)

    def resume(self, hypercall: HypercallExit) -> int:
        """Resume after a hypercall; return its result to the guest."""
        self.world.rules.require("resume", {"ret-not-set": hypercall.ret is None})
        return hypercall.ret or 0

    def pre_fault(self, gpa: int, size: int) -> tuple[int, int]:
        """KVM_PRE_FAULT_MEMORY: map ahead; return the GPA and size left to do (size 0: all done)."""
        self.world.rules.require(
            "pre-fault",
            {
                "unsupported": self.kind is VmType.SNP,
                "unaligned": unaligned(gpa, size),
                "empty": size == 0 or gpa + size >= U64,
            },
        )
        end, start = gpa + size, gpa
        while gpa < end:
            rule = self.world.rules.first_broken("pre-fault-page", self._pre_fault_facts(gpa, end))
            if rule is not None and gpa == start:
                raise rule.refusal(f"gpa {gpa:#x}")
            if rule is not None:
                break
            gpa += PAGE
        return gpa, end - gpa

    def _pre_fault_facts(self, gpa: int, end: int) -> dict[str, bool]:
        frame = gpa // PAGE
        stop = self.world.faults.take(FaultKind.PARTIAL, (end - gpa) // PAGE)
        absent = self.slot_of(frame) is None
        facts = {"interrupted": stop is not None, "no-slot": absent, "no-memory-behind": False}
        if stop is None and not absent:
            access = Access(gpa, 1, self._meaning(frame), write=False, path=Path.MMU)
            facts["no-memory-behind"] = isinstance(self._resolve(access), VcpuExit)
        return facts

    def populate(self, gpa: int, data: bytes, *, source_address: int = 0) -> int:
        """Place launch image bytes, as SNP and TDX do; return pages done, raise only if none was."""
        done = 0
        for position in range(0, len(data), PAGE):
            frame = gpa // PAGE + done
            slot = self.slot_of(frame)
            inode = slot.inode if slot else None
            rule = self.world.rules.first_broken(
                "populate-guest",
                {
                    "source-unaligned": unaligned(source_address),
                    "no-gmem": inode is None,
                    "not-private": not self.is_private(frame),
                },
            )
            if rule is not None or slot is None or inode is None:
                if rule is not None and not done:
                    raise rule.refusal(f"gpa {frame * PAGE:#x}")
                break
            index = slot.index_of(frame)
            inode.page(index)
            inode.storage.write(index * PAGE, data[position : position + PAGE])
            done += 1
        return done

    def lint(self) -> list[int]:
        """Return the slots whose user address does not map their mappable file.

        There the instruction emulator sees other bytes than the guest's own accesses.
        """
        found = []
        for number, slot in self.slots.items():
            user = slot.region.userspace
            alias = user.alias_of is slot.inode and user.offset == slot.region.offset
            if self._maps_file(slot) and not alias:
                found.append(number)
        return found


def _mmio(access: Access) -> VcpuExit:
    return VcpuExit(0, ExitReason.MMIO, 0, access.gpa, access.size, access.write)


def _from_userspace(slot: Memslot, access: Access) -> Place | VcpuExit:
    """Find a page by the VMM's address; a failure there reports no GPA."""
    if access.write and slot.region.flags & SlotFlags.READONLY:
        return _mmio(access)
    user = slot.region.userspace
    if user.storage is None or (access.write and not user.writable):
        if access.path is Path.EMULATOR:
            return _mmio(access)
        return VcpuExit(errno_value("EFAULT"), ExitReason.NONE)
    offset = user.offset + access.gpa - slot.region.gpa
    return Place(user.storage, offset)
