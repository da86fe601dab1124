# SPDX-License-Identifier: GPL-2.0-or-later
"""guest_memfd: a file of one VM, which can be allocated, punched and, if created so, mapped."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

from cvmlab.generations.compat import override
from cvmlab.generations.files.inode import MAX_BYTES, FileStat, Inode
from cvmlab.generations.files.range_map import RangeMap
from cvmlab.generations.syscalls import (
    FALLOC_COLLAPSE,
    FALLOC_INSERT,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_UNSHARE,
    FALLOC_ZERO,
    PAGE,
)


if TYPE_CHECKING:
    from collections.abc import Mapping

    from cvmlab.generations.files.bindings import MappingListener
    from cvmlab.generations.files.inode import World
    from cvmlab.generations.files.open_file import OpenFile
    from cvmlab.generations.files.storage import Storage

SHARED, PRIVATE = 0, 1
_VFS_WITHOUT_KEEP_SIZE = {FALLOC_PUNCH_HOLE}
_VFS_WITH_KEEP_SIZE = {FALLOC_COLLAPSE, FALLOC_INSERT}
_VFS_MODES = {0, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO, FALLOC_INSERT, FALLOC_UNSHARE}


class GuestMemfdFlags(IntFlag):
    """Creation flags of guest_memfd; interpreted here, never passed to the host."""

    MMAP = 1
    INIT_SHARED = 2


def vfs_refuses_mode(mode: int) -> bool:
    """Return whether fallocate() fails before it reaches any file system."""
    keep, action = mode & FALLOC_KEEP_SIZE, mode & ~FALLOC_KEEP_SIZE
    return (
        action not in _VFS_MODES
        or (not keep and action in _VFS_WITHOUT_KEEP_SIZE)
        or (bool(keep) and action in _VFS_WITH_KEEP_SIZE)
    )


def unaligned(*values: int) -> bool:
    """Return whether any of these byte values is not a multiple of the page size."""
    return any(value % PAGE for value in values)


class GuestMemfd(Inode):
    """The inode of a guest_memfd.  ``private`` says per page index what the host may touch."""

    def __init__(
        self, world: World, storage: Storage, size: int, flags: int, owner: object
    ) -> None:
        super().__init__(world, storage, size)
        self.flags = GuestMemfdFlags(flags & 3)
        self.owner: object | None = owner
        self.private = RangeMap(SHARED if self.flags & GuestMemfdFlags.INIT_SHARED else PRIVATE)
        self.mappings: list[MappingListener] = []
        self.links = 1
        self.linked: set[object] = set()

    @property
    def owners(self) -> set[object]:
        """The VMs that this file may be bound to."""
        return self.linked if self.owner is None else {self.owner, *self.linked}

    @property
    def tracks_attributes(self) -> bool:
        """Return whether the file itself, not its VM, knows what is private."""
        return self.rules.word("convert-ioctl") not in ("none", "vm-attributes")

    @property
    def mappable(self) -> bool:
        return bool(self.flags & GuestMemfdFlags.MMAP)

    @override
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Allocate (KEEP_SIZE) or punch (KEEP_SIZE and PUNCH_HOLE) whole pages."""
        end = offset + length
        self.check_fallocate(mode, offset, length, {})
        if mode & FALLOC_PUNCH_HOLE:
            self.punch(offset // PAGE, min(end, self.size) // PAGE)
        else:
            self.populate(offset // PAGE, end // PAGE)

    def check_fallocate(
        self, mode: int, offset: int, length: int, more: Mapping[str, bool]
    ) -> None:
        """Raise the Refusal of fallocate(), if any; *more* are facts that a subclass adds."""
        punch, end = bool(mode & FALLOC_PUNCH_HOLE), offset + length
        self.require(
            "fallocate",
            {
                **more,
                "not-positive": offset < 0 or length <= 0,
                "vfs-mode": vfs_refuses_mode(mode),
                "too-big": end > MAX_BYTES,
                "no-keep-size": not mode & FALLOC_KEEP_SIZE,
                "mode": bool(mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE)),
                "unaligned": unaligned(offset, length),
                "beyond-size": not punch and end > self.size,
            },
            offset,
            end,
        )

    def punch(self, start: int, end: int) -> None:
        """Free pages; their private or shared attribute does not change."""
        if start >= end:
            return
        with self.invalidated(start, end):
            self.release(start, end)
            for mapping in self.mappings:
                mapping.punched(start, end)

    @override
    def evict(self) -> None:
        for binding in self.bindings:
            self.unbind(binding)
        super().evict()

    @override
    def stat(self) -> FileStat:
        held = self.storage.usage.known_bytes // 512
        blocks = 0 if self.rules.switch("blocks-stay-zero") else held
        return FileStat(0o100600, self.links, self.size, PAGE, blocks, 1, self.number)

    @property
    def link_text(self) -> str:
        return self.rules.word("link-text")

    def statfs(self) -> tuple[int, int]:
        """Return the magic number of the file system and its block size."""
        return self.rules.number("magic"), self.stat().blksize

    def attributes_changing(self, start: int, end: int, value: int) -> None:
        """Follow a change of the VM's attributes, or raise to prevent it."""

    def bound(self, start: int, end: int, value: int) -> None:
        """Follow the binding of pages ``[start, end)`` to a VM whose pages begin as *value*."""

    def store(self, start: int, end: int, value: int) -> None:
        """Record a conversion after its checks; contents stay in place."""
        self.private.set(start, end, value)

    def batches(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of a conversion that succeed or fail together."""
        return [(start, end)]

    def folio_start(self, index: int) -> int:
        """Return the first page of the folio at *index*."""
        return index - index % (1 << self.order_of(index))

    def host_may_touch(self, index: int) -> bool:
        return index < self.pages and self.private[index] == SHARED

    def released(self, file: OpenFile) -> None:
        """Remove the bindings of *file* after its last close; the guest's mappings go with them."""
        for binding in [item for item in self.bindings if item.owner is file]:
            binding.notifier.invalidate_start(binding.start, binding.end)
            binding.notifier.invalidate_end(binding.start, binding.end)
            self.unbind(binding)
