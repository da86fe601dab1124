# SPDX-License-Identifier: GPL-2.0-or-later
"""A restricted file of any generation that is the private memory of a running VM::

    fd = emulate(generation="F").create_guest_memfd(128 << 20, flags=1)
    async with Vm(memory="128M", private_file=fd) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await file.punch(0x200_0000, 0x1000)     # the guest's next touch finds a pending page

The generation's rules check each operation.  It is then done between invalidate start and end, while
the VM's CPUs are paused.  Only the plugin changes page states; the file's own record follows it.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, final

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError, CvmError
from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.files.guest_memfd import PRIVATE, SHARED, GuestMemfd
from cvmlab.generations.files.inode import Inode
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.restrictedmem import RestrictedFile
from cvmlab.generations.syscalls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE
from cvmlab.generations.vms.kvm import PRIVATE_ATTRIBUTE
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.pages import Pages
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.states import PageState
from cvmlab.vm.operations import Content, Invalidation, RangesLike, Target


if TYPE_CHECKING:
    from cvmlab.generations.files.bindings import Binding


_ANSWER_S = 60.0
Work = Callable[[list[GpaRange]], Awaitable[object]]


class LiveVm(Protocol):
    """The part of a VM that a binding uses; Vm and AttachedVm have it."""

    @property
    def name(self) -> str: ...

    @property
    def pages(self) -> Pages: ...

    @property
    def memory_files(self) -> RestrictedFiles: ...

    async def invalidate(self, event: Invalidation, ranges: RangesLike) -> None: ...

    async def discard(self, ranges: RangesLike) -> int: ...

    async def poison(self, ranges: RangesLike) -> int: ...

    async def convert(
        self, ranges: RangesLike, to: Target | str, *, content: Content | str | None = None
    ) -> int: ...


@final
class _VmNotifier:
    """A running VM as the engine's Notifier.  It is called in the engine's thread and acts in the
    event loop's.

    ``work`` is the VM's part of the change under way.  It is done at invalidate start, so that a VM
    that refuses it also cancels the change of the file.
    """

    def __init__(self, vm: LiveVm, loop: asyncio.AbstractEventLoop) -> None:
        self.vm = vm
        self.work: Work | None = None
        self._loop = loop

    def ranges(self, start: int, end: int) -> list[GpaRange]:
        """Return where the guest has pages ``[start, end)``; raise ConfigError if not all are RAM."""
        found = []
        for slot in self.vm.pages.slots:
            first = max(start * PAGE_SIZE, slot.offset)
            last = min(end * PAGE_SIZE, slot.offset + slot.size)
            if first < last:
                found.append(GpaRange(slot.gpa + first - slot.offset, last - first))
        if sum(part.size for part in found) != (end - start) * PAGE_SIZE:
            raise ConfigError(
                f"pages {start:#x} to {end:#x} of the file are not all RAM of {self.vm.name!r}",
                hint="a PC does not map 640 KiB to 1 MiB as RAM at a fixed place",
            )
        return found

    def invalidate_start(self, start: int, end: int) -> None:
        ranges = self.ranges(start, end)
        self._call(self.vm.invalidate(Invalidation.START, ranges))
        if self.work is None:
            return
        try:
            self._call(self._do(self.work, ranges))
        except CvmError:
            self._call(self.vm.invalidate(Invalidation.END, ranges))
            raise

    def invalidate_end(self, start: int, end: int) -> None:
        self._call(self.vm.invalidate(Invalidation.END, self.ranges(start, end)))

    def error(self, start: int, end: int) -> None:
        self.work = self.vm.poison
        self.invalidate_start(start, end)
        self.invalidate_end(start, end)

    async def _do(self, work: Work, ranges: list[GpaRange]) -> None:
        await work(ranges)

    def _call(self, request: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(request, self._loop).result(_ANSWER_S)


@final
class LiveFile:
    """Operations on *fd* that also change the VMs bound to it.

    The caller keeps the descriptor.  A binding keeps the file alive, as a memslot does, after every
    descriptor is closed; the last unbind() then frees it.
    """

    def __init__(self, fd: Fd) -> None:
        self._file = fd.file
        self._bound: dict[LiveVm, tuple[_VmNotifier, Binding]] = {}
        self._turn = asyncio.Lock()

    @property
    def inode(self) -> Inode:
        """The engine's file: its rules, bindings, pins and trace."""
        return self._file.inode

    async def bind(self, vm: LiveVm) -> None:
        """Bind all of the file to *vm*, whose private memory it must be.

        :raise OSError: the generation refuses it, for example because the range is bound already.
        """
        mine, theirs = (os.fstat(fd) for fd in (_fileno(self), vm.memory_files.fds.private))
        if (mine.st_dev, mine.st_ino) != (theirs.st_dev, theirs.st_ino):
            raise ConfigError(
                f"the private memory of {vm.name!r} is another file",
                hint="start the VM with private_file=",
            )
        async with self._turn:
            notifier = _VmNotifier(vm, asyncio.get_running_loop())
            taken = bool(self.inode.bindings.overlapping(0, self.inode.pages))
            if not isinstance(self.inode, RestrictedFile):
                self.inode.require("bind", defaultdict(bool, {"range-bound": taken}))
            binding = self.inode.attach(0, self.inode.pages, notifier)
            self._file.hold()
            self._bound[vm] = (notifier, binding)

    async def unbind(self, vm: LiveVm) -> None:
        """Remove the binding of *vm*, which is notified no more.  The last one frees the file."""
        async with self._turn:
            _, binding = self._bound.pop(vm)
            self.inode.unbind(binding)
            self._file.drop()

    async def punch(self, offset: int, size: int) -> None:
        """Free pages: they are pending again, and their content is lost."""
        mode = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
        await self._change(lambda: self.inode.fallocate(mode, offset, size), lambda vm: vm.discard)

    async def set_error(self, offset: int) -> None:
        """Report a memory error in the page at *offset*: the guest's touch is a machine check."""
        await self._change(lambda: self.inode.poison(offset // PAGE_SIZE), lambda vm: vm.poison)

    async def convert(self, offset: int, size: int, to: Target | str) -> None:
        """Convert pages; content is kept if the VM's layout is in-place, and lost otherwise."""
        target = Target(choose("target", to, Target))

        def work(vm: LiveVm) -> Work:
            return lambda ranges: vm.convert(ranges, target)

        await self._change(lambda: self._convert(offset, size, target), work)

    def _convert(self, offset: int, size: int, to: Target) -> None:
        start, end = offset // PAGE_SIZE, (offset + size) // PAGE_SIZE
        inode = self.inode
        if isinstance(inode, GuestMemfd) and inode.tracks_attributes:
            attributes = PRIVATE_ATTRIBUTE if to is Target.PRIVATE else 0
            convert(inode, ConvertRequest(offset, size, attributes))
        else:
            with inode.invalidated(start, end):
                pass  # the VM has the attributes: its notifier's work changes them
        split = any(vm.memory_files.fds.shared is not None for vm in self._bound)
        if split and to is Target.SHARED:
            inode.release(start, end)

    async def _change(self, change: Callable[[], None], work: Callable[[LiveVm], Work]) -> None:
        async with self._turn:
            self._follow()
            for vm, (notifier, _) in self._bound.items():
                notifier.work = work(vm)
            done = asyncio.ensure_future(asyncio.to_thread(change))
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                # Let the change finish, so that starts and ends balance.
                await asyncio.wait([done])
                raise

    def _follow(self) -> None:
        """Update the file's record with what guests have touched and converted."""
        self.inode.storage.notice()
        if not isinstance(self.inode, GuestMemfd) or not self.inode.tracks_attributes:
            return
        for vm in self._bound:
            for slot in vm.pages.slots:
                first = slot.offset // PAGE_SIZE
                self.inode.private.set(first, first + slot.size // PAGE_SIZE, PRIVATE)
            for run in vm.pages.runs():
                if run.state is PageState.SHARED:
                    first = _offset(vm, run.range.start) // PAGE_SIZE
                    self.inode.private.set(first, first + run.range.size // PAGE_SIZE, SHARED)


def _fileno(file: LiveFile) -> int:
    return file.inode.storage.fileno()


def _offset(vm: LiveVm, gpa: int) -> int:
    return next(
        slot.offset + gpa - slot.gpa
        for slot in vm.pages.slots
        if gpa - slot.gpa in range(slot.size)
    )
