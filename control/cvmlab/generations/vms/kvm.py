# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated /dev/kvm of the guest_memfd generations: files, VMs, slots, attributes."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import TYPE_CHECKING

from cvmlab.generations.faults import FaultKind, FaultPlan
from cvmlab.generations.files.guest_memfd import GuestMemfd, unaligned
from cvmlab.generations.files.inode import MAX_BYTES, Inode, World
from cvmlab.generations.files.open_file import Fd, OpenFile, descriptor_open, resolve
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.rulebook import Generation, Rulebook
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.guest_view import GuestView
from cvmlab.generations.vms.slots import KNOWN_SLOT_FLAGS, U64, Memslot, Region, SlotFlags


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cvmlab.generations.files.bindings import Binding

_CREATE = struct.Struct("QQ48x")
PRIVATE_ATTRIBUTE = 1 << 3
_MAX_SLOTS = 32764
_MAX_SLOT_PAGES = (1 << 31) - 1


class Kvm:
    """One emulated kernel with guest_memfd, of a generation and version."""

    def __init__(
        self,
        generation: Generation = Generation.GUEST_MEMFD,
        *,
        version: str | None = None,
        quirks: Iterable[str] = (),
        faults: FaultPlan | None = None,
        nodes: int = 1,
    ) -> None:
        rules = Rulebook(generation, version, quirks)
        self.world = World(rules, faults or FaultPlan(), nodes=nodes)

    def create_vm(self, kind: VmType = VmType.DEFAULT) -> EmulatedVm:
        return EmulatedVm(self, kind)

    def create_file(
        self, size: int, flags: int, owner: EmulatedVm | None, page_order: int = 0
    ) -> GuestMemfd:
        """Check the arguments and make the inode; subclasses make other kinds."""
        del page_order
        self.check_create(size, flags)
        storage = Storage.memfd("cvmlab-guest-memfd", size)
        return GuestMemfd(self.world, storage, size, flags, owner)

    def check_create(self, size: int, flags: int) -> None:
        known = self.world.rules.number("known-flags")
        self.world.rules.require(
            "create",
            {
                "bad-pointer": False,
                "other-process": False,
                "flags-unknown": bool(flags & ~known),
                "size-negative": not 0 <= size <= MAX_BYTES,
                "size-zero": size == 0,
                "size-unaligned": unaligned(size),
            },
            f"size {size:#x} flags {flags:#x}",
        )

    def open_file(self, inode: GuestMemfd) -> Fd:
        file = OpenFile(inode)
        file.on_release = lambda: inode.released(file)
        return Fd(file)

    def create_guest_memfd(self, size: int, flags: int = 0) -> Fd:
        """Make a file without a VM, for versions that bind at first use."""
        return self.open_file(self.create_file(size, flags, None))


class EmulatedVm(GuestView):
    """One VM.  Only the process that made it may call; ``kvm.world.process`` is the caller."""

    def __init__(self, kvm: Kvm, kind: VmType) -> None:
        super().__init__(kvm.world, kind)
        self.kvm = kvm
        self._creator = kvm.world.process

    @property
    def foreign_call(self) -> bool:
        return self.world.process is not self._creator

    def _require_caller(self, *, readable: bool) -> None:
        facts = {"bad-pointer": not readable, "other-process": self.foreign_call}
        self.world.rules.require("create", defaultdict(bool, facts))

    def create_guest_memfd(self, size: int, flags: int = 0, page_order: int = 0) -> Fd:
        """KVM_CREATE_GUEST_MEMFD.  ``page_order`` is a reserved field without huge pages."""
        self._require_caller(readable=True)
        owner = None if self.delayed else self
        return self.kvm.open_file(self.kvm.create_file(size, flags, owner, page_order))

    def create_guest_memfd_from(self, argument: bytes | None) -> Fd:
        """KVM_CREATE_GUEST_MEMFD with its raw argument; None stands for an invalid pointer."""
        readable = argument is not None and len(argument) >= _CREATE.size
        self._require_caller(readable=readable)
        size, flags = _CREATE.unpack_from(argument or b"")
        return self.create_guest_memfd(size, flags)

    def link_guest_memfd(self, fd: Fd | int, flags: int = 0, *, descriptors_left: int = 1) -> Fd:
        """KVM_LINK_GUEST_MEMFD: a second file, for this VM, on the inode of another VM's file."""
        inode = resolve(fd)
        self.world.rules.require(
            "link",
            {
                "flags-unknown": flags != 0,
                "bad-fd": inode is None and not descriptor_open(fd),
                "not-gmem": not isinstance(inode, GuestMemfd),
                "same-vm": isinstance(inode, GuestMemfd) and self in inode.owners,
                "no-descriptors": descriptors_left < 1,
            },
        )
        if not isinstance(inode, GuestMemfd):
            raise TypeError("the rules accepted a file of another kind")
        inode.links += 1
        inode.linked.add(self)
        return self.kvm.open_file(inode)

    def set_region(self, region: Region, fd: Fd | int | None = None, *, old: bool = False) -> None:
        """KVM_SET_USER_MEMORY_REGION2, or the older ioctl.  Size 0 deletes the slot."""
        inode = resolve(fd) if region.flags & SlotFlags.GUEST_MEMFD else None
        self.world.rules.require("bind", self._bind_facts(region, fd, inode, old=old))
        existing = self.slots.get(region.slot)
        if existing is not None:
            self._forget(existing)
        if region.size:
            slot = Memslot(self, region)
            if isinstance(fd, Fd) and inode is not None:
                self._attach(slot, fd.file)
            self.slots[region.slot] = slot
        self.world.trace.note("slot", region.gpa // PAGE, (region.gpa + region.size) // PAGE)

    def _attach(self, slot: Memslot, file: OpenFile) -> None:
        slot.file = file
        if self.delayed:
            file.hold()
        else:
            self.bind_slot(slot, file.inode)

    def _forget(self, slot: Memslot) -> None:
        """Remove a slot with its binding; the pages stay in the file."""
        self.zap(slot.first_frame, slot.first_frame + slot.frames)
        self.zapped()
        del self.slots[slot.region.slot]
        self.unbind_slot(slot)
        if self.delayed and slot.file is not None:
            slot.file.drop()

    def unbind_slot(self, slot: Memslot) -> None:
        """Remove the slot's binding, if it still exists; a file without bindings has no owner."""
        inode, binding = slot.inode, slot.binding
        slot.binding = None
        if inode is None or binding is None or binding not in list(inode.bindings):
            return
        inode.unbind(binding)
        if self.delayed and isinstance(inode, GuestMemfd) and not len(inode.bindings):
            inode.owner = None

    def _bind_facts(
        self, region: Region, fd: Fd | int | None, inode: Inode | None, *, old: bool
    ) -> dict[str, bool | Callable[[], bool]]:
        flags, size = SlotFlags(region.flags & KNOWN_SLOT_FLAGS), region.size
        private = bool(flags & SlotFlags.GUEST_MEMFD)
        existing = self.slots.get(region.slot)
        end = region.gpa + size
        facts: dict[str, bool | Callable[[], bool]] = {
            "other-process": self.foreign_call,
            "flags-unknown": bool(region.flags & ~KNOWN_SLOT_FLAGS),
            "private-and-dirty-log": private
            and bool(flags & (SlotFlags.READONLY | SlotFlags.LOG_DIRTY_PAGES)),
            "old-ioctl": private and old,
            "region-unaligned": unaligned(size, region.gpa, region.userspace.address),
            "bad-slot": not 0 <= region.slot < _MAX_SLOTS,
            "gpa-wraps": end >= U64,
            "too-many-pages": size // PAGE > _MAX_SLOT_PAGES,
            "delete-absent": not size and existing is None,
            "modify-private": bool(size)
            and existing is not None
            and (existing.has_file or private),
            "modify-size": bool(size)
            and existing is not None
            and _resized(existing.region, region),
            "gpa-overlap": bool(size) and self._occupied(region),
            "arch": lambda: bool(self.world.faults.take(FaultKind.ARCH_PREPARE, size // PAGE)),
        }
        facts.update(self._file_facts(region, fd, inode, checked=private and bool(size)))
        return facts

    def _file_facts(
        self, region: Region, fd: Fd | int | None, inode: Inode | None, *, checked: bool
    ) -> dict[str, bool]:
        private = bool(region.flags & SlotFlags.GUEST_MEMFD)
        size = inode.size if inode is not None else 0
        first, last = region.offset // PAGE, (region.offset + region.size) // PAGE
        wraps_signed = region.offset + region.size >= 1 << 63 and region.offset < 1 << 63
        return {
            "offset-unaligned": private and unaligned(region.offset),
            "offset-wraps": private and region.offset + region.size >= U64,
            "bad-fd": checked and inode is None and not descriptor_open(fd),
            "not-gmem": checked and not isinstance(inode, GuestMemfd),
            "other-vm": checked and isinstance(inode, GuestMemfd) and self not in inode.owners,
            "offset-negative": checked and region.offset + region.size >= 1 << 63,
            "beyond-size": checked and not wraps_signed and region.offset + region.size > size,
            "range-bound": checked
            and not self.delayed
            and inode is not None
            and any(self._is_mine(item) for item in inode.bindings.overlapping(first, last)),
        }

    def _is_mine(self, binding: Binding) -> bool:
        return isinstance(binding.notifier, Memslot) and binding.notifier.vm is self

    def _occupied(self, region: Region) -> bool:
        return any(
            slot.region.slot != region.slot
            and slot.region.gpa < region.gpa + region.size
            and region.gpa < slot.region.gpa + slot.region.size
            for slot in self.slots.values()
        )

    def set_attributes(self, gpa: int, size: int, attributes: int, flags: int = 0) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES: all of the range or nothing; no change does nothing."""
        start, end = gpa // PAGE, (gpa + size) // PAGE
        supported = PRIVATE_ATTRIBUTE if self.kind.has_private_memory else 0
        self.world.rules.require(
            "attributes",
            {
                "other-process": self.foreign_call,
                "not-built": not supported,
                "flags": flags != 0,
                "unsupported": bool(attributes & ~supported),
                "empty": size == 0 or gpa + size >= U64,
                "unaligned": unaligned(gpa, size),
                "no-memory": lambda: bool(self.world.faults.take(FaultKind.NO_MEMORY, end - start)),
            },
            f"gpa {gpa:#x}+{size:#x}",
        )
        value = 1 if attributes & PRIVATE_ATTRIBUTE else 0
        if not self.attributes.uniform(start, end, value):
            self._update_files(start, end, value)
            self.zap(start, end)
            self.attributes.set(start, end, value)
            self.zapped()

    def _update_files(self, start: int, end: int, value: int) -> None:
        """Update the files of the range, all or none of them."""
        done: list[tuple[GuestMemfd, int, int]] = []
        for slot in self.slots.values():
            low, high = max(start, slot.first_frame), min(end, slot.first_frame + slot.frames)
            inode = slot.inode
            if low >= high or not isinstance(inode, GuestMemfd):
                continue
            first, last = slot.index_of(low), slot.index_of(low) + high - low
            try:
                inode.attributes_changing(first, last, value)
            except OSError:
                for earlier, begin, stop in done:
                    earlier.attributes_changing(begin, stop, 1 - value)
                raise
            done.append((inode, first, last))

    def close(self) -> None:
        """Close the VM with its vCPUs and slots; its files stay."""
        for slot in list(self.slots.values()):
            self._forget(slot)
        self.attributes = RangeMap()


def _resized(old: Region, new: Region) -> bool:
    return (
        old.size != new.size
        or old.userspace.address != new.userspace.address
        or bool((old.flags ^ new.flags) & SlotFlags.READONLY)
    )
