# SPDX-License-Identifier: GPL-2.0-or-later
"""memfd_create(MFD_INACCESSIBLE): a wrapper around a tmpfs file that only notifiers can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvmlab.generations.compat import override
from cvmlab.generations.faults import FaultPlan
from cvmlab.generations.files.bindings import Binding, Notifier
from cvmlab.generations.files.guest_memfd import unaligned
from cvmlab.generations.files.inode import Page, World
from cvmlab.generations.files.open_file import Fd, OpenFile, resolve
from cvmlab.generations.files.shmem import ShmemInode, other_mode
from cvmlab.generations.files.storage import Storage
from cvmlab.generations.refusal import Oops
from cvmlab.generations.rulebook import Generation, Rulebook
from cvmlab.generations.syscalls import FALLOC_PUNCH_HOLE, PAGE


if TYPE_CHECKING:
    from collections.abc import Iterable

CLOEXEC, ALLOW_SEALING, HUGETLB, INACCESSIBLE = 1, 2, 4, 8
_ALL_PAGES = 1 << 52


class InaccessibleKernel:
    """An emulated kernel with version 8 of the series."""

    def __init__(
        self,
        *,
        version: str | None = None,
        quirks: Iterable[str] = (),
        faults: FaultPlan | None = None,
    ) -> None:
        self.world = World(
            Rulebook(Generation.INACCESSIBLE, version, quirks), faults or FaultPlan()
        )
        self.shmem_huge = False

    def memfd_create(self, flags: int = INACCESSIBLE) -> Fd:
        """Make an inaccessible file, or without the flag an ordinary one."""
        hidden = bool(flags & INACCESSIBLE)
        self.world.rules.require(
            "create",
            {
                "flags-unknown": bool(flags & ~0b1111),
                "sealing": hidden and bool(flags & ALLOW_SEALING),
                "hugetlb": hidden and bool(flags & HUGETLB),
            },
            f"flags {flags:#x}",
        )
        kind = InaccessibleFile if hidden else ShmemInode
        inode = kind(self.world, Storage.memfd("cvmlab-inaccessible"), huge=self.shmem_huge)
        return Fd(OpenFile(inode), cloexec=bool(flags & CLOEXEC))

    def register_notifier(self, fd: Fd | int, notifier: Notifier) -> Binding:
        """inaccessible_register_notifier(): all of the file, newest first."""
        inode = resolve(fd)
        ordinary = not isinstance(inode, InaccessibleFile)
        if ordinary and self.world.rules.has("no-magic-check"):
            raise Oops(
                "an ordinary memfd was taken for an inaccessible one", quirk="no-magic-check"
            )
        self.world.rules.require("register", {"ordinary": ordinary})
        if not isinstance(inode, InaccessibleFile):
            raise TypeError("the rules accepted a file of another kind")
        return inode.attach(0, _ALL_PAGES, notifier)


class InaccessibleFile(ShmemInode):
    """The inode of the wrapper; size and pages are those of the file inside."""

    noexec = True

    def __init__(self, world: World, storage: Storage, *, huge: bool) -> None:
        super().__init__(world, storage, huge=huge)
        self.uptodate: set[int] = set()
        self._held: set[int] = set()

    @property
    def magic(self) -> int:
        return self.rules.number("magic")

    @override
    def truncate(self, size: int) -> None:
        """Set the size, once."""
        self.require("ftruncate", {"size-set": self.size != 0, "unaligned": unaligned(size)})
        self.resize(size)

    @override
    def fallocate(self, mode: int, offset: int, length: int) -> None:
        """Change the file inside, then notify everyone, also after an allocation or a failure."""
        punch, end = bool(mode & FALLOC_PUNCH_HOLE), offset + length
        self.require(
            "fallocate",
            {
                "not-positive": offset < 0 or length <= 0,
                "mode": False,
                "punch-unaligned": punch and unaligned(offset, length),
                "held": bool(self._held),
            },
            offset,
            end,
        )
        try:
            self._fallocate_below(mode, offset, length)
        finally:
            self._notify(offset, end)

    def _fallocate_below(self, mode: int, offset: int, length: int) -> None:
        facts = dict.fromkeys(("not-positive", "punch-unaligned", "held"), False)
        self.require("fallocate", facts | {"mode": other_mode(mode)}, offset, offset + length)
        if mode & FALLOC_PUNCH_HOLE:
            self.release(offset // PAGE, (offset + length) // PAGE)
        else:
            self.allocate_bytes(mode, offset, length)

    def _notify(self, offset: int, end: int) -> None:
        start, last = offset // PAGE, -(-end // PAGE)
        if self.rules.has("byte-offsets"):
            start, last = offset, end
        with self.invalidated(start, last, newest_first=True):
            pass

    @override
    def attach(self, start: int, end: int, notifier: Notifier) -> Binding:
        """Bind all pages: notifiers clip the range themselves."""
        del start, end
        binding = Binding(0, _ALL_PAGES, notifier, notifier)
        self.bind(binding)
        return binding

    def get_pfn(self, index: int) -> Page:
        """Return the page, locked; fallocate() is refused until put_pfn()."""
        self.require("get-pfn", {"page-locked": index in self._held})
        if not self.storage.has(index):
            self.fill(index, index + 1)
        page = self.page(index)
        self._held.add(index)
        return page

    def put_pfn(self, page: Page | None) -> None:
        """Unlock a page; a page that is not locked is a warning."""
        if page is None or page.index not in self._held:
            self.world.trace.note("warn", reason="put_pfn of no page")
            return
        self.uptodate.add(page.index)
        self._held.discard(page.index)
