# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs of the time before guest_memfd: a slot has a private file and an address for the shared half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvmlab.generations.files.guest_memfd import unaligned
from cvmlab.generations.files.open_file import resolve
from cvmlab.generations.syscalls import PAGE
from cvmlab.generations.vms.guest_view import GuestView
from cvmlab.generations.vms.slots import Memslot, Region


if TYPE_CHECKING:
    from cvmlab.generations.files.inode import Inode, World
    from cvmlab.generations.files.open_file import Fd
    from cvmlab.generations.vms.exits import VmType

MEM_PRIVATE = 4


class PrivateVm(GuestView):
    """A VM with KVM_MEM_PRIVATE slots over files of *kinds*."""

    def __init__(self, world: World, kind: VmType, kinds: type[Inode]) -> None:
        super().__init__(world, kind)
        self._kinds = kinds
        self._mapped_slots: set[int] = set()

    def set_private_region(self, region: Region, fd: Fd | int) -> Memslot:
        """Make a slot whose private half is *fd*.  The size of the file is not checked."""
        inode = resolve(fd)
        self.world.rules.require(
            "slot",
            {
                "not-restricted": not isinstance(inode, self._kinds),
                "offset-unaligned": unaligned(region.offset),
                "less-aligned": region.offset > 0
                and _alignment(region.gpa) < _alignment(region.offset),
                "existing": region.slot in self.slots,
            },
            f"slot {region.slot} at {region.gpa:#x}",
        )
        if inode is None:
            raise TypeError("the rules accepted a file of another kind")
        slot = Memslot(self, region)
        first = region.offset // PAGE
        slot.binding = inode.attach(first, first + region.size // PAGE, slot)
        slot.file = fd.file if not isinstance(fd, int) else None
        if slot.file is not None:
            slot.file.hold()
        self.slots[region.slot] = slot
        return slot

    def delete_region(self, number: int) -> None:
        slot = self.slots.pop(number)
        inode = slot.inode
        if inode is not None and slot.binding is not None:
            inode.unbind(slot.binding)
        if slot.file is not None:
            slot.file.drop()

    def convert(self, gpa: int, size: int, *, to_private: bool) -> None:
        """KVM_MEMORY_ENCRYPT_REG_REGION or its opposite: page by page, regardless of slots."""
        start, end = gpa // PAGE, (gpa + size) // PAGE
        mapped = [
            number
            for number in self._mapped_slots
            if self.slots[number].first_frame < end
            and start < self.slots[number].first_frame + self.slots[number].frames
        ]
        self.world.rules.require(
            "encrypt-region",
            {"unaligned": unaligned(gpa, size), "empty": size <= 0, "mapped": bool(mapped)},
            f"gpa {gpa:#x}+{size:#x}",
        )
        self.zap(start, end)
        self.attributes.set(start, end, 1 if to_private else 0)
        self.zapped()

    def pin_shared(self, gpa: int, size: int) -> None:
        """Pin guest pages for I/O by the host; private ones are refused, mapped or not."""
        start, end = gpa // PAGE, -(-(gpa + size) // PAGE)
        private = not self.attributes.uniform(start, end, 0)
        self.world.rules.require("pin", {"private": private}, f"gpa {gpa:#x}+{size:#x}")

    def mmap_start(self, number: int) -> None:
        """Map a whole slot into the host, as was proposed: only while all of it is shared."""
        slot = self.slots[number]
        first, last = slot.first_frame, slot.first_frame + slot.frames
        self.world.rules.require(
            "mmap-start",
            {
                "never-after-boot": self.kind.guest_chooses and self.finalized,
                "not-all-shared": not self.attributes.uniform(first, last, 0),
            },
            f"slot {number}",
        )
        self._mapped_slots.add(number)

    def mmap_end(self, number: int) -> None:
        self._mapped_slots.discard(number)

    def close(self) -> None:
        for number in list(self.slots):
            self.delete_region(number)


def _alignment(value: int) -> int:
    """Return the largest power of two that divides *value*; for zero, more than any."""
    return value & -value if value else 1 << 64
