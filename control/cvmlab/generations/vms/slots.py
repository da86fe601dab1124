# SPDX-License-Identifier: GPL-2.0-or-later
"""Memslots: where guest frames come from, and their binding to a restricted file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol

from cvmlab.generations.syscalls import PAGE


if TYPE_CHECKING:
    from cvmlab.generations.files.bindings import Binding
    from cvmlab.generations.files.inode import Inode
    from cvmlab.generations.files.open_file import OpenFile
    from cvmlab.generations.files.storage import Storage

U64 = 1 << 64


class SlotFlags(IntFlag):
    """Flags of a memslot, with the bits of today's KVM."""

    LOG_DIRTY_PAGES = 1
    READONLY = 2
    GUEST_MEMFD = 4


KNOWN_SLOT_FLAGS = 0b111


@dataclass(frozen=True, slots=True)
class Userspace:
    """The VMM's address for a slot, and what the emulation has mapped there.

    ``storage`` is None if nothing is mapped there; ``writable`` is the protection.
    ``alias_of`` and ``offset`` say that the address maps a restricted file itself.
    """

    address: int
    storage: Storage | None = None
    offset: int = 0
    writable: bool = True
    alias_of: Inode | None = None


NOWHERE = Userspace(0)


@dataclass(frozen=True, slots=True)
class Region:
    """The argument of the ioctl that makes a slot; addresses, sizes and offsets in bytes."""

    slot: int
    gpa: int
    size: int
    flags: int = 0
    userspace: Userspace = NOWHERE
    offset: int = 0


class Zapper(Protocol):
    """The VM of a slot: it unmaps frames ``[start, end)`` from the guest.

    *only* limits that to frames mapped as shared (0) or as private (1): a conversion unmaps the others'
    old mappings.
    """

    def zap(self, start: int, end: int, only: int | None = None) -> None: ...

    def zapped(self) -> None: ...

    def machine_check(self, start: int, end: int) -> None: ...


@dataclass(slots=True, eq=False)
class Memslot:
    """A memslot.  It passes its file's notifications to its VM, with frames for file pages."""

    vm: Zapper
    region: Region
    file: OpenFile | None = None
    binding: Binding | None = None

    @property
    def first_frame(self) -> int:
        return self.region.gpa // PAGE

    @property
    def frames(self) -> int:
        return self.region.size // PAGE

    @property
    def first_page(self) -> int:
        """Index in the file of the first page."""
        return self.region.offset // PAGE

    @property
    def has_file(self) -> bool:
        return bool(self.region.flags & SlotFlags.GUEST_MEMFD)

    @property
    def inode(self) -> Inode | None:
        """The file's inode, or None if there is no file or it was released."""
        return None if self.file is None or self.file.released else self.file.inode

    def covers(self, frame: int) -> bool:
        return self.first_frame <= frame < self.first_frame + self.frames

    def index_of(self, frame: int) -> int:
        """Return the page of the file for a guest frame."""
        return frame - self.first_frame + self.first_page

    def frames_of(self, start: int, end: int) -> tuple[int, int]:
        """Clip file pages ``[start, end)`` to the slot; return guest frames, possibly none."""
        low = max(start, self.first_page)
        high = min(end, self.first_page + self.frames)
        shift = self.first_frame - self.first_page
        return (low + shift, high + shift) if low < high else (0, 0)

    def invalidate_start(self, start: int, end: int) -> None:
        low, high = self.frames_of(start, end)
        if low < high:
            inode = self.inode
            self.vm.zap(low, high, inode.changing if inode else None)

    def invalidate_end(self, start: int, end: int) -> None:
        low, high = self.frames_of(start, end)
        if low < high:
            self.vm.zapped()

    def error(self, start: int, end: int) -> None:
        low, high = self.frames_of(start, end)
        if low < high:
            self.vm.machine_check(low, high)
