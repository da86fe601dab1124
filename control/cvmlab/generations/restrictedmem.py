# SPDX-License-Identifier: GPL-2.0-or-later
"""memfd_restricted(): a tmpfs file whose pages only its bindings can use."""

from __future__ import annotations

import os
from collections import defaultdict
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING

from cvmlab.generations.compat import override
from cvmlab.generations.faults import FaultKind, FaultPlan
from cvmlab.generations.files.bindings import Binding, Notifier
from cvmlab.generations.files.guest_memfd import unaligned
from cvmlab.generations.files.inode import FileStat, Page, World
from cvmlab.generations.files.mounts import (
    TMPFS_MAGIC,
    HostMounts,
    MountFacts,
    Mounts,
    file_system_magic,
)
from cvmlab.generations.files.open_file import Fd, OpenFile
from cvmlab.generations.files.shmem import ShmemInode, other_mode
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.rulebook import Generation, Rulebook
from cvmlab.generations.syscalls import FALLOC_PUNCH_HOLE, PAGE


if TYPE_CHECKING:
    from collections.abc import Iterable

_DEFAULT_MOUNT = MountFacts("")


class NoexecCheck(StrEnum):
    """How "mounted no-execute" is interpreted."""

    OFF = "off"
    MOUNT = "mount"  # mount -o noexec is enough
    SUPERBLOCK = "superblock"  # only a flag of the kernel's own mounts counts


class RestrictedKernel:
    """An emulated kernel with memfd_restricted().  ``shmem_huge`` is its transparent_hugepage/shmem_enabled."""

    def __init__(
        self,
        *,
        version: str | None = None,
        quirks: Iterable[str] = (),
        faults: FaultPlan | None = None,
        mounts: Mounts | None = None,
        nodes: int = 1,
    ) -> None:
        rules = Rulebook(Generation.RESTRICTEDMEM, version, quirks)
        self.world = World(rules, faults or FaultPlan(), nodes=nodes)
        self.noexec_check = (
            NoexecCheck.SUPERBLOCK if rules.has("noexec-superblock") else NoexecCheck.MOUNT
        )
        self.shmem_huge = False
        self.descriptors_left = 1024
        self.backing_taken = False
        self._mounts = mounts or HostMounts()
        self._inner_numbers: defaultdict[str, count[int]] = defaultdict(lambda: count(2))

    def memfd_restricted(self, flags: int = 0, mount_fd: int = -1) -> Fd:
        """Make a file in the mount that *mount_fd* is the root of, where the version takes one."""
        rules = self.world.rules
        known = rules.number("mount-flag")
        asked = rules.switch("takes-mount") or bool(flags & known)
        mount = self._mounts.facts(mount_fd) if asked else _DEFAULT_MOUNT
        facts = self._mount_facts(mount or _DEFAULT_MOUNT)
        facts |= {"flags-unknown": bool(flags & ~known), "bad-fd": mount is None}
        rules.require("create", facts)
        return self._open(mount if asked and mount else _DEFAULT_MOUNT)

    def memfd_restricted_at(self, path: str | None) -> Fd:
        """The RFC that takes a path: any folder of a tmpfs is accepted."""
        magic = 0
        if path is not None and os.path.exists(path):  # noqa: PTH110 - a path of the user, as text
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            magic = file_system_magic(fd)
            os.close(fd)
        self.world.rules.require(
            "create-path",
            {
                "no-path": path is None,
                "path-missing": magic == 0,
                "not-tmpfs": magic != TMPFS_MAGIC,
            },
        )
        return self._open(MountFacts(path or ""))

    def _mount_facts(self, mount: MountFacts) -> dict[str, bool]:
        noexec = {
            NoexecCheck.OFF: True,
            NoexecCheck.MOUNT: mount.noexec_mount or mount.noexec_superblock,
            NoexecCheck.SUPERBLOCK: mount.noexec_superblock,
        }
        return {
            "not-mount-root": not mount.is_root,
            "partial-mount": not mount.whole,
            "executable": not noexec[self.noexec_check],
            "not-tmpfs": mount.magic != TMPFS_MAGIC,
            "read-only": mount.read_only,
            "no-descriptors": self.descriptors_left < 1,
            "no-memory": self.world.faults.take(FaultKind.NO_MEMORY, 1) is not None,
            "backing-taken": self.backing_taken,
        }

    def _open(self, mount: MountFacts) -> Fd:
        storage = (
            Storage.in_mount(mount.point) if mount.point else Storage.memfd("cvmlab-restricted")
        )
        huge = mount.huge or (not mount.point and self.shmem_huge)
        inode = RestrictedFile(self.world, storage, huge=huge)
        inode.inner_number = next(self._inner_numbers[mount.point])
        return Fd(OpenFile(inode))


class RestrictedFile(ShmemInode):
    """The inode.  Unevictable and unmovable; ``backing_releases`` marks a backing with its own release."""

    def __init__(self, world: World, storage: Storage, *, huge: bool) -> None:
        super().__init__(world, storage, huge=huge)
        self.unevictable = True
        self.movable = False
        self.exclusive: bool | None = None
        self.backing_releases = False
        self.inner_number = 0
        self._warned = False

    @override
    def truncate(self, size: int) -> None:
        """Set the size: once, or any number of times in versions without that check."""
        self.require("ftruncate", {"size-set": self.size != 0, "unaligned": unaligned(size)})
        self.resize(size)

    @override
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        punch = bool(mode & FALLOC_PUNCH_HOLE)
        self.require(
            "fallocate",
            {
                "not-positive": offset < 0 or length <= 0,
                "mode": other_mode(mode),
                "punch-unaligned": punch and unaligned(offset, length),
            },
            offset,
            offset + length,
        )
        if punch:
            self.punch(offset // PAGE, (offset + length) // PAGE)
        else:
            self.allocate_bytes(mode, offset, length)

    def punch(self, start: int, end: int) -> None:
        """Notify every binding before and after freeing, also if freeing fails."""
        with self.invalidated(start, end):
            self.release(start, end)

    def bind_range(
        self, start: int, end: int, notifier: Notifier, *, exclusive: bool = True
    ) -> Binding:
        """restrictedmem_bind(): bind pages ``[start, end)`` to one user."""
        inclusive = 1 if self.rules.has("inclusive-end") else 0
        taken = [item for item in self.bindings if _collide(item, start, end, inclusive)]
        self.require(
            "bind",
            {
                "not-exclusive": not exclusive,
                "exclusivity-differs": len(self.bindings) > 0 and self.exclusive is not exclusive,
                "range-bound": bool(taken),
            },
            start * PAGE,
            end * PAGE,
        )
        binding = Binding(start, end, notifier, notifier, exclusive)
        self.bind(binding)
        self.exclusive = exclusive
        return binding

    @override
    def attach(self, start: int, end: int, notifier: Notifier) -> Binding:
        return self.bind_range(start, end, notifier)

    def get_page(self, index: int) -> Page:
        """restrictedmem_get_page(): the page of a bound index, allocated if need be, unlocked."""
        unbound = self.bindings.at(index) is None
        if unbound:
            self.warn(f"page {index:#x} was requested outside of any binding")
        self.require("get-page", {"unbound": unbound}, index * PAGE, (index + 1) * PAGE)
        return self.page(index)

    @override
    def page(self, index: int) -> Page:
        if not self.storage.has(index):
            self.fill(index, index + 1)
        return super().page(index)

    @override
    def poison(self, index: int) -> None:
        """Report the error to every binding of the page's folio, then to the backing file."""
        if self.rules.has("error-under-spinlock"):
            self.warn("sleeping in atomic context: the list of inodes is walked under a spinlock")
        super().poison(index)
        self.world.trace.note("backing-error", index, index + 1)

    def migrate_folio(self, index: int) -> None:
        """Refuse to move a page; only the first refusal is a warning."""
        if not self._warned:
            self._warned = True
            self.warn(f"migration of page {index:#x} was attempted")
        self.require("migrate-folio", {"always": True})

    def bind_policy(self, offset: int, length: int, node: int) -> None:
        """memfd_restricted_bind(): new pages of the range go to one node."""
        self.require("mbind", {"bad-nodes": not 0 <= node < self.world.nodes})
        self.policy.bind(offset // PAGE, (offset + length) // PAGE, node)

    def warn(self, sentence: str) -> None:
        """Record a kernel warning."""
        self.world.trace.note("warn", reason=sentence)

    @override
    def evict(self) -> None:
        if self.backing_releases:
            self.warn("the backing file's own release is not called")
        for binding in self.bindings:
            self.unbind(binding)
        super().evict()

    @override
    def stat(self) -> FileStat:
        inner = super().stat()
        if self.rules.has("inner-identity"):
            return FileStat(
                inner.mode, 1, self.size, inner.blksize, inner.blocks, 1, self.inner_number
            )
        device = self.rules.number("own-device")
        return FileStat(inner.mode, 1, self.size, inner.blksize, inner.blocks, device, self.number)


def _collide(item: Binding, start: int, end: int, inclusive: int) -> bool:
    return item.start < end + inclusive and start < item.end + inclusive
