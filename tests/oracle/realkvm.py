# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own guest_memfd behind the operations of the comparison.  No guest is run."""

import ctypes
import fcntl
import mmap
import os
import select
import struct
from collections.abc import Callable
from pathlib import Path

from cvmlab.generations import syscalls


KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_USER_MEMORY_REGION2 = 0x40A0AE49
KVM_CREATE_GUEST_MEMFD = 0xC040AED4
KVM_SET_MEMORY_ATTRIBUTES = 0x4020AED2
KVM_SET_MEMORY_ATTRIBUTES2 = 0xC080AED2
CAP_GUEST_MEMFD = 234
CAP_GUEST_MEMFD_FLAGS = 244
FORBIDDEN_OFFSETS = range(1 << 62, (1 << 64) - (1 << 20))


def why_not() -> str | None:
    """Return None where the kernel has a mappable guest_memfd, else the reason to skip."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm cannot be opened: {error.strerror}"
    try:
        vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        known = fcntl.ioctl(vm, KVM_CHECK_EXTENSION, CAP_GUEST_MEMFD_FLAGS)
        os.close(vm)
    except OSError as error:
        return f"/dev/kvm makes no VM here: {error.strerror}"
    finally:
        os.close(kvm)
    return None if known == 3 else f"guest_memfd flags are {known:#x} here, 0x3 is compared"


class RealMachine:
    """One VM of type 0, its files by name and its mappings by name.  close() frees all."""

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vms = {"vm": self._new_vm()}
        self._files: dict[str, int] = {}
        self._maps: dict[str, tuple[int, int]] = {}

    def _new_vm(self) -> int:
        return fcntl.ioctl(self._kvm, KVM_CREATE_VM, 0)

    def _fd(self, name: str) -> int:
        if name == "bad":
            return -1
        if name not in self._files and name == "memfd":
            self._files[name] = os.memfd_create("ordinary")
        return self._files[name]

    def _vm(self, name: str) -> int:
        if name not in self._vms:
            self._vms[name] = self._new_vm()
        return self._vms[name]

    def _keep(self, file: str, fd: int) -> None:
        """Give a descriptor its name; what had it before is closed."""
        if file in self._files:
            os.close(self._files[file])
        self._files[file] = fd

    def create(self, file: str, size: int, flags: int, vm: str = "vm") -> None:
        size &= (1 << 64) - 1
        argument = bytearray(struct.pack("8Q", size, flags, 0, 0, 0, 0, 0, 0))
        self._keep(file, fcntl.ioctl(self._vm(vm), KVM_CREATE_GUEST_MEMFD, argument))

    def create_from_nowhere(self) -> None:
        fcntl.ioctl(self._vm("vm"), KVM_CREATE_GUEST_MEMFD, 0)

    def create_in_child(self) -> int:
        """Return the errno a forked child gets for the same ioctl."""
        argument = bytearray(struct.pack("8Q", 4096, 0, 0, 0, 0, 0, 0, 0))
        return in_child(lambda: fcntl.ioctl(self._vm("vm"), KVM_CREATE_GUEST_MEMFD, argument))

    def dup(self, file: str, other: str) -> None:
        self._keep(other, os.dup(self._files[file]))

    def close_file(self, file: str) -> None:
        os.close(self._files.pop(file))

    def close_vm(self, vm: str) -> None:
        os.close(self._vms.pop(vm))

    def fallocate(self, file: str, mode: int, offset: int, length: int) -> None:
        syscalls.fallocate(self._files[file], mode, offset, length)

    def stat(self, file: str) -> tuple[int, ...]:
        found = os.fstat(self._files[file])
        return (
            found.st_mode,
            found.st_nlink,
            found.st_size,
            found.st_blksize,
            found.st_blocks,
        )

    def statfs(self, file: str) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(256)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fstatfs(self._files[file], buffer):
            raise OSError(ctypes.get_errno(), "fstatfs")
        return struct.unpack_from("qq", buffer)

    def identity(self, one: str, other: str) -> tuple[bool, bool]:
        first, second = os.fstat(self._files[one]), os.fstat(self._files[other])
        return first.st_ino == second.st_ino, first.st_dev == second.st_dev

    def link_text(self, file: str) -> str:
        return str(Path(f"/proc/self/fd/{self._files[file]}").readlink())

    def cloexec(self, file: str) -> bool:
        return bool(fcntl.fcntl(self._files[file], fcntl.F_GETFD) & fcntl.FD_CLOEXEC)

    def call(self, file: str, name: str) -> None:
        _FILE_CALLS[name](self._files[file])

    def bind(self, slot: int, flags: int, gpa: int, size: int, file: str, offset: int) -> None:
        self._region(slot, flags, gpa, size, 0, file, offset, "vm")

    def bind_at(self, slot: int, gpa: int, size: int, address: int) -> None:
        self._region(slot, 0, gpa, size, address, "bad", 0, "vm")

    def bind_in(self, vm: str, slot: int, file: str) -> None:
        self._region(slot, 4, 0, 4096, 0, file, 0, vm)

    def _region(
        self,
        slot: int,
        flags: int,
        gpa: int,
        size: int,
        address: int,
        file: str,
        offset: int,
        vm: str,
    ) -> None:
        if offset in FORBIDDEN_OFFSETS:
            raise AssertionError("such offsets are never tried on a real kernel")
        head = struct.pack("IIQQQQ", slot, flags, gpa, size, address, offset)
        fd = self._fd(file) & 0xFFFFFFFF
        fcntl.ioctl(
            self._vm(vm), KVM_SET_USER_MEMORY_REGION2, head + struct.pack("II", fd, 0) + bytes(112)
        )

    def bind_old(self, slot: int, flags: int, gpa: int, size: int) -> None:
        argument = struct.pack("IIQQQ", slot, flags, gpa, size, 0)
        fcntl.ioctl(self._vm("vm"), KVM_SET_USER_MEMORY_REGION, argument)

    def attributes(self, gpa: int, size: int, attributes: int, flags: int) -> None:
        argument = struct.pack("QQQQ", gpa, size, attributes, flags)
        fcntl.ioctl(self._vm("vm"), KVM_SET_MEMORY_ATTRIBUTES, argument)

    def convert(self, file: str, offset: int, size: int, attributes: int) -> None:
        argument = bytearray(struct.pack("QQQ", offset, size, attributes)).ljust(128, b"\0")
        fcntl.ioctl(self._files[file], KVM_SET_MEMORY_ATTRIBUTES2, argument)

    def mmap(self, mapping: str, file: str, size: int, protection: int, flags: int) -> None:
        libc = syscalls._libc
        address = libc.mmap(None, size, protection, flags, self._files[file], 0)
        if address == syscalls._MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        if mapping in self._maps:
            self.unmap(mapping)
        self._maps[mapping] = (address, size)

    def address(self, mapping: str) -> int:
        return self._maps[mapping][0]

    def load(self, mapping: str, offset: int, size: int) -> bytes:
        return syscalls.read_memory(self._inside(mapping, offset, size), size)

    def store(self, mapping: str, offset: int, data: bytes) -> None:
        syscalls.write_memory(self._inside(mapping, offset, len(data)), data)

    def _inside(self, mapping: str, offset: int, size: int) -> int:
        """Return an address, never one of another mapping of this process."""
        address, mapped = self._maps[mapping]
        if offset + size > mapped:
            raise ValueError("outside the mapping")
        return address + offset

    def mprotect(self, mapping: str, protection: int) -> None:
        address, size = self._maps[mapping]
        libc = syscalls._libc
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
            raise OSError(ctypes.get_errno(), "mprotect")

    def advise(self, mapping: str, advice: str, offset: int, size: int) -> None:
        address = self._inside(mapping, offset, size)
        if advice == "lock":
            syscalls.lock(address, size)
        else:
            syscalls.madvise(address, size, _ADVICE[advice])

    def unmap(self, mapping: str) -> None:
        syscalls.unmap(*self._maps.pop(mapping))

    def close(self) -> None:
        for address, size in self._maps.values():
            syscalls.unmap(address, size)
        for fd in [*self._files.values(), *self._vms.values(), self._kvm]:
            os.close(fd)


def in_child(action: Callable[[], object]) -> int:
    """Run *action* in a forked child; return its errno, 0 for success."""
    child = os.fork()
    if child == 0:
        status = 0
        try:
            action()
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _splice(fd: int) -> None:
    read_end, write_end = os.pipe()
    try:
        os.splice(fd, write_end, 4096)
    finally:
        os.close(read_end)
        os.close(write_end)


def _copy_file_range(fd: int) -> None:
    other = os.memfd_create("other")
    try:
        os.copy_file_range(fd, other, 4096)
    finally:
        os.close(other)


def _sendfile(fd: int) -> None:
    other = os.memfd_create("other")
    try:
        os.sendfile(other, fd, 0, 4096)
    finally:
        os.close(other)


def _epoll(fd: int) -> None:
    with select.epoll() as epoll:
        epoll.register(fd)


def _reopen(fd: int) -> None:
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))


_FILE_CALLS: dict[str, Callable[[int], object]] = {
    "read": lambda fd: os.read(fd, 8),
    "read-nothing": lambda fd: os.read(fd, 0),
    "write": lambda fd: os.write(fd, b"12345678"),
    "write-nothing": lambda fd: os.write(fd, b""),
    "readv": lambda fd: os.readv(fd, [bytearray(8)]),
    "pread": lambda fd: os.pread(fd, 8, 0),
    "pwrite": lambda fd: os.pwrite(fd, b"12345678", 0),
    "lseek": lambda fd: os.lseek(fd, 0, os.SEEK_SET),
    "seek-data": lambda fd: os.lseek(fd, 0, os.SEEK_DATA),
    "sendfile": _sendfile,
    "posix-fallocate": lambda fd: os.posix_fallocate(fd, 0, 4096),
    "splice": _splice,
    "copy-file-range": _copy_file_range,
    "ftruncate": lambda fd: os.ftruncate(fd, 4096),
    "fchmod": lambda fd: os.fchmod(fd, 0o600),
    "fchown": lambda fd: os.fchown(fd, 0, 0),
    "utimes": lambda fd: os.utime(fd),
    "fsync": os.fsync,
    "fdatasync": os.fdatasync,
    "get-seals": lambda fd: fcntl.fcntl(fd, fcntl.F_GET_SEALS),
    "add-seals": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 1),
    "reopen": _reopen,
    "epoll": _epoll,
    "unknown-ioctl": lambda fd: fcntl.ioctl(fd, 0xAE7F),
    "flock": lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
    "fadvise": lambda fd: os.posix_fadvise(fd, 0, 4096, os.POSIX_FADV_WILLNEED),
}

_ADVICE = {
    "hugepage": mmap.MADV_HUGEPAGE,
    "collapse": 25,
    "dontneed": mmap.MADV_DONTNEED,
    "remove": mmap.MADV_REMOVE,
    "free": mmap.MADV_FREE,
    "populate": 22,
}


def kernel_release() -> str:
    return Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
