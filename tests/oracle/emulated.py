# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulation behind the same operations as the real guest_memfd."""

import os
from typing import Any

from cvmlab.generations.conversion import ConvertRequest, convert
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.inode import Process
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.host.mapping import Advice, BusError, HostMapping, map_file
from cvmlab.generations.rulebook import Generation
from cvmlab.generations.vms.kvm import EmulatedVm, Kvm
from cvmlab.generations.vms.slots import Region, Userspace


EFAULT = 14
_DONE_BY_VFS = {"flock", "fadvise"}
_SAME_AS = {"read-nothing": "read", "write-nothing": "write"}


class EmulatedMachine:
    """One emulated VM of type 0, with the names of RealMachine."""

    def __init__(self, generation: Generation) -> None:
        self._kvm = Kvm(generation, version="6.18")
        self._vms: dict[str, EmulatedVm] = {"vm": self._kvm.create_vm()}
        self._files: dict[str, Fd] = {}
        self._maps: dict[str, HostMapping] = {}
        self._ordinary = -1

    def _inode(self, file: str) -> GuestMemfd:
        inode = self._files[file].inode
        assert isinstance(inode, GuestMemfd)
        return inode

    def _fd(self, name: str) -> Fd | int:
        if name == "bad":
            return -1
        if name == "memfd":
            if self._ordinary < 0:
                self._ordinary = os.memfd_create("ordinary")
            return self._ordinary
        return self._files[name]

    def _vm(self, name: str) -> EmulatedVm:
        return self._vms.setdefault(name, self._vms.get(name) or self._kvm.create_vm())

    def _keep(self, file: str, fd: Fd) -> None:
        if file in self._files:
            self._files[file].close()
        self._files[file] = fd

    def create(self, file: str, size: int, flags: int, vm: str = "vm") -> None:
        self._keep(file, self._vm(vm).create_guest_memfd(size, flags))

    def create_from_nowhere(self) -> None:
        self._vm("vm").create_guest_memfd_from(None)

    def create_in_child(self) -> int:
        with self._kvm.world.running_as(Process("child")):
            try:
                self.create("child", 4096, 0)
            except OSError as error:
                return error.errno or 255
        return 0

    def dup(self, file: str, other: str) -> None:
        self._keep(other, self._files[file].dup())

    def close_file(self, file: str) -> None:
        self._files.pop(file).close()

    def close_vm(self, vm: str) -> None:
        self._vms.pop(vm).close()

    def fallocate(self, file: str, mode: int, offset: int, length: int) -> None:
        self._files[file].fallocate(mode, offset, length)

    def stat(self, file: str) -> tuple[int, ...]:
        found = self._files[file].stat()
        return found.mode, found.nlink, found.size, found.blksize, found.blocks

    def statfs(self, file: str) -> tuple[int, int]:
        return self._inode(file).statfs()

    def identity(self, one: str, other: str) -> tuple[bool, bool]:
        first, second = self._files[one].stat(), self._files[other].stat()
        return first.ino == second.ino, first.dev == second.dev

    def link_text(self, file: str) -> str:
        return self._inode(file).link_text

    def cloexec(self, file: str) -> bool:
        return self._files[file].cloexec

    def call(self, file: str, name: str) -> None:
        if name not in _DONE_BY_VFS:
            self._inode(file).refuse(_SAME_AS.get(name, name))

    def bind(self, slot: int, flags: int, gpa: int, size: int, file: str, offset: int) -> None:
        self._vm("vm").set_region(Region(slot, gpa, size, flags, offset=offset), self._fd(file))

    def bind_at(self, slot: int, gpa: int, size: int, address: int) -> None:
        self._vm("vm").set_region(Region(slot, gpa, size, 0, Userspace(address)))

    def bind_in(self, vm: str, slot: int, file: str) -> None:
        self._vm(vm).set_region(Region(slot, 0, 4096, 4), self._fd(file))

    def bind_old(self, slot: int, flags: int, gpa: int, size: int) -> None:
        self._vm("vm").set_region(Region(slot, gpa, size, flags), old=True)

    def attributes(self, gpa: int, size: int, attributes: int, flags: int) -> None:
        self._vm("vm").set_attributes(gpa, size, attributes, flags)

    def convert(self, file: str, offset: int, size: int, attributes: int) -> None:
        convert(self._inode(file), ConvertRequest(offset, size, attributes))

    def mmap(self, mapping: str, file: str, size: int, protection: int, flags: int) -> None:
        made = map_file(self._files[file].file, size, protection, flags)
        if mapping in self._maps:
            self.unmap(mapping)
        self._maps[mapping] = made

    def load(self, mapping: str, offset: int, size: int) -> bytes:
        return _as_syscall(self._maps[mapping].touch(offset, size=size))

    def store(self, mapping: str, offset: int, data: bytes) -> None:
        _as_syscall(self._maps[mapping].touch(offset, data))

    def mprotect(self, mapping: str, protection: int) -> None:
        self._maps[mapping].protect(protection)

    def advise(self, mapping: str, advice: str, offset: int, size: int) -> None:
        self._maps[mapping].advise(Advice(advice), offset, size)

    def unmap(self, mapping: str) -> None:
        self._maps.pop(mapping).close()

    def close(self) -> None:
        if self._ordinary >= 0:
            os.close(self._ordinary)
        closing: list[Any] = [*self._maps.values(), *self._files.values()]
        for item in closing:
            item.close()
        for vm in self._vms.values():
            vm.close()


def _as_syscall(result: bytes | BusError) -> bytes:
    """What is SIGBUS to an instruction is EFAULT to a system call."""
    if isinstance(result, BusError):
        raise OSError(EFAULT, f"bus error at {result.offset:#x}")
    return result
