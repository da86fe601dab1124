# SPDX-License-Identifier: GPL-2.0-or-later
"""F_SEAL_GUEST: a seal on an empty memfd, after which only its guest can use the pages."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import TYPE_CHECKING, Protocol

from cvmlab.generations.compat import override
from cvmlab.generations.faults import FaultPlan
from cvmlab.generations.files.guest_memfd import unaligned
from cvmlab.generations.files.inode import Page, World
from cvmlab.generations.files.open_file import Fd, OpenFile, OpenMode
from cvmlab.generations.files.shmem import ShmemInode, other_mode
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.refusal import Oops, Refusal
from cvmlab.generations.rulebook import Generation, Rulebook
from cvmlab.generations.syscalls import FALLOC_PUNCH_HOLE, PAGE


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ALLOW_SEALING = 2
_KNOWN_CREATE_FLAGS = 0b111
_ALL_SEALS = 0x3F
_END = 1 << 52


class Seal(IntFlag):
    """Seals with the bits of the patch."""

    SEAL = 0x01
    SHRINK = 0x02
    GROW = 0x04
    WRITE = 0x08
    FUTURE_WRITE = 0x10
    GUEST = 0x20


class Writeback(StrEnum):
    """The result of writing a page back under memory pressure."""

    SWAPPED = "swapped"
    REDIRTIED = "redirtied"


class GuestOps(Protocol):
    """Callbacks of the owner, with page indexes; ``end`` is excluded, except with a quirk."""

    def invalidate_page_range(self, owner: object, start: int, end: int) -> None: ...

    def fallocate(self, owner: object, start: int, end: int) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Vma:
    """The properties of a mapping that seals check."""

    writable: bool
    shared: bool


class SealKernel:
    """An emulated kernel whose memfds know F_SEAL_GUEST."""

    def __init__(
        self,
        *,
        version: str | None = None,
        quirks: Iterable[str] = (),
        faults: FaultPlan | None = None,
    ) -> None:
        self.world = World(Rulebook(Generation.SEAL_GUEST, version, quirks), faults or FaultPlan())
        self.shmem_huge = False

    def memfd_create(self, flags: int = ALLOW_SEALING) -> Fd:
        unknown = bool(flags & ~_KNOWN_CREATE_FLAGS)
        self.world.rules.require("create", {"flags-unknown": unknown}, f"flags {flags:#x}")
        inode = SealGuestFile(self.world, Storage.memfd("cvmlab-seal-guest"), huge=self.shmem_huge)
        inode.seals = 0 if flags & ALLOW_SEALING else Seal.SEAL
        return Fd(OpenFile(inode))

    def reopen(self, fd: Fd, mode: OpenMode) -> Fd:
        """Open the same inode again, as by /proc/self/fd."""
        return Fd(OpenFile(fd.inode, mode))

    def add_seals(self, fd: Fd | int, seals: int) -> None:
        """F_ADD_SEALS."""
        inode = fd.inode if isinstance(fd, Fd) else None
        sealable = inode if isinstance(inode, SealGuestFile) else None
        facts = {"not-writable": not _writable(fd), "unknown": bool(seals & ~_ALL_SEALS)}
        rule = self.world.rules.first_broken("add-seals", facts | _seal_facts(sealable, seals))
        if rule is not None:
            if seals & Seal.GUEST and rule.entry in ("A03", "A04", "A05"):
                self._unlock_too_early()
            raise rule.refusal(f"seals {seals:#x}")
        if sealable is not None:
            sealable.seals |= seals

    def _unlock_too_early(self) -> None:
        if self.world.rules.has("unlock-not-locked"):
            self.world.trace.note("warn", reason="bad unlock balance: i_mmap was not locked")

    def register_guest(self, fd: Fd | int, owner: object | None, ops: GuestOps) -> SealGuestFile:
        """memfd_register_guest(): return the file, for get_lock_pfn() and put_unlock_pfn()."""
        inode = fd.inode if isinstance(fd, Fd) else None
        file = inode if isinstance(inode, SealGuestFile) else None
        self.world.rules.require(
            "register",
            {
                "not-shmem": file is None,
                "no-owner": owner is None,
                "other-owner": file is not None and file.owner not in (None, owner),
            },
        )
        if file is None:
            raise TypeError("the rules accepted a file of another kind")
        if not self.world.rules.has("owner-not-stored"):
            file.owner = owner
        file.guest_ops = ops
        return file


class SealGuestFile(ShmemInode):
    """The inode: ``seals``, ``owner``, mappings, and which folios are locked."""

    def __init__(self, world: World, storage: Storage, *, huge: bool) -> None:
        super().__init__(world, storage, huge=huge)
        self.seals = 0
        self.owner: object | None = None
        self.guest_ops: GuestOps | None = None
        self.vmas: list[Vma] = []
        self.dirty: set[int] = set()
        self._locked: set[int] = set()
        self._dead = False

    @property
    def sealed(self) -> bool:
        return bool(self.seals & Seal.GUEST)

    @override
    def read(self, offset: int, size: int) -> bytes:
        """Read; beyond the last page that returns nothing, sealed or not."""
        if offset // PAGE > self.size // PAGE:
            return b""
        self.require("read", {"guest-sealed": self.sealed}, offset, offset + size)
        return self.storage.read(offset, max(0, min(size, self.size - offset)))

    @override
    def write(self, offset: int, data: bytes) -> int:
        end = offset + len(data)
        self.require(
            "write",
            {
                "write-sealed": bool(self.seals & (Seal.WRITE | Seal.FUTURE_WRITE)),
                "grow-sealed": bool(self.seals & Seal.GROW) and end > self.size,
                "guest-sealed": self.sealed,
            },
            offset,
            end,
        )
        self.storage.write(offset, data)
        self.size = max(self.size, end)
        return len(data)

    def map(self, vma: Vma) -> Vma:
        """mmap() of the file; keep the result until unmap()."""
        write_sealed = bool(self.seals & (Seal.WRITE | Seal.FUTURE_WRITE))
        self.require(
            "mmap",
            {
                "write-sealed": write_sealed and vma.shared and vma.writable,
                "guest-sealed": self.sealed,
            },
        )
        self.vmas.append(vma)
        return vma

    def unmap(self, vma: Vma) -> None:
        self.vmas.remove(vma)

    @override
    def truncate(self, size: int) -> None:
        first = -(-size // PAGE)
        self.require(
            "ftruncate",
            {
                "negative": size < 0,
                "shrink-sealed": bool(self.seals & Seal.SHRINK) and size < self.size,
                "grow-sealed": bool(self.seals & Seal.GROW) and size > self.size,
                "unaligned": self.sealed and unaligned(size),
                "page-locked": size <= self.size and self._any_locked(first, _END),
            },
        )
        if size <= self.size:
            self._drop_folios(first, _END)  # there may be pages beyond the size: KEEP_SIZE
        self.resize(size)

    @override
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        punch, end = bool(mode & FALLOC_PUNCH_HOLE), offset + length
        write_sealed = bool(self.seals & (Seal.WRITE | Seal.FUTURE_WRITE))
        self.require(
            "fallocate",
            {
                "not-positive": offset < 0 or length <= 0,
                "mode": other_mode(mode),
                "punch-write-sealed": punch and write_sealed,
                "punch-unaligned": punch and self.sealed and unaligned(offset, length),
                "grow-sealed": not punch and bool(self.seals & Seal.GROW) and end > self.size,
                "page-locked": punch and self._any_locked(offset // PAGE, -(-end // PAGE)),
            },
            offset,
            end,
        )
        if punch:
            self._drop_folios(-(-offset // PAGE), end // PAGE)
        else:
            start, last = self.allocate_bytes(mode, offset, length)
            ops = self._callbacks()
            if ops is not None:
                self.world.trace.note("callback-fallocate", start, last)
                ops.fallocate(self.owner, start, last)

    def _drop_folios(self, start: int, end: int) -> None:
        """Remove the pages of ``[start, end)``, folio by folio: lock, notify, remove, unlock."""
        for low, high in self.folios(start, end):
            first, last = max(low, start), min(high, end)
            with self._locking(low):
                ops = self._callbacks()
                if ops is not None:
                    told = last - 1 if self.rules.has("inclusive-invalidate") else last
                    self.world.trace.note("callback-invalidate", first, told)
                    ops.invalidate_page_range(self.owner, first, told)
                self.release(first, last)

    @contextmanager
    def _locking(self, folio: int) -> Iterator[None]:
        self._locked.add(folio)
        try:
            yield
        finally:
            self._locked.discard(folio)

    def _any_locked(self, start: int, end: int) -> bool:
        return any(
            start < index + (1 << self.order_of(index)) and index < end for index in self._locked
        )

    def _callbacks(self) -> GuestOps | None:
        if self._dead:
            raise Oops("a callback was called after its VM ended", quirk="no-unregister")
        if self.guest_ops is None and self.rules.has("unregistered-callback"):
            raise Oops(
                "a callback was called before anyone registered", quirk="unregistered-callback"
            )
        return self.guest_ops

    def unregister_guest(self, owner: object) -> None:
        """Unregister the owner, which the patch does not provide for."""
        self.require("unregister", {"always": True, "other-owner": self.owner not in (None, owner)})
        self.owner = None
        self.guest_ops = None

    def owner_died(self) -> None:
        """Handle the end of the VM; if it cannot unregister, its callbacks are stale now."""
        if self.rules.has("no-unregister"):
            self._dead = self.guest_ops is not None
        else:
            self.owner = None
            self.guest_ops = None

    def get_lock_pfn(self, index: int) -> tuple[int, int]:
        """Return frame number and order of the folio at *index*, allocated if need be, and lock it.

        Indexes beyond the size are allowed.
        """
        folio = self._folio(index)
        self.require("get-lock-pfn", {"page-locked": folio in self._locked})
        try:
            if not self.storage.has(index):
                self.fill(index, index + 1)
            page: Page = self.page(index)
        except Refusal as refusal:
            if self.rules.has("errno-as-pfn"):
                return (1 << 64) - (refusal.errno or 0), 0
            raise
        self._locked.add(self._folio(index))
        return page.pfn, page.order

    def put_unlock_pfn(self, pfn: int) -> None:
        """Unlock what get_lock_pfn() returned, and mark it dirty."""
        index = pfn & ((1 << 40) - 1)
        folio = self._folio(index)
        self.require("put-unlock-pfn", {"not-locked": folio not in self._locked})
        self.dirty.add(index)
        self._locked.discard(folio)

    def _folio(self, index: int) -> int:
        return index - index % (1 << self.order_of(index))

    def writepage(self, index: int) -> Writeback:
        """Try to move a page to swap; guest pages stay in memory."""
        if self.sealed:
            self.dirty.add(index)
            return Writeback.REDIRTIED
        return Writeback.SWAPPED

    def migrate_page(self, index: int) -> None:
        self.require(
            "migrate-page", {"guest-sealed": self.sealed}, index * PAGE, (index + 1) * PAGE
        )


def _seal_facts(file: SealGuestFile | None, seals: int) -> dict[str, bool]:
    if file is None:
        absent = dict.fromkeys(("sealed", "writable-mapping", "mapped", "not-empty"), False)
        return {"no-seals": True} | absent
    guest = bool(seals & Seal.GUEST)
    write = bool(seals & Seal.WRITE) and not file.seals & Seal.WRITE
    return {
        "no-seals": False,
        "sealed": bool(file.seals & Seal.SEAL),
        "writable-mapping": write and any(vma.shared and vma.writable for vma in file.vmas),
        "mapped": guest and bool(file.vmas),
        "not-empty": guest and file.size > 0,
    }


def _writable(fd: Fd | int) -> bool:
    if isinstance(fd, Fd):
        return bool(fd.file.mode & OpenMode.WRITE)
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
