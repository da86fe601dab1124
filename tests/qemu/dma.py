# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers for DMA devices, run from the test through the bare-metal guest's loads, stores and ports.

A driver keeps what it needs itself (rings, queues, command tables) in pages that the test has shared
with the host and that are zero, so that a request goes all the way and only its data is in question.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cvmlab.memory.ranges import PAGE_SIZE
from tests.qemu.bare import BareGuest


SECTOR = 512
_WAIT_S = 3.0  # a device works in threads of its own, which a busy host may let wait
_IO_MEMORY_MASTER = 0x07


class DeviceError(Exception):
    """The device did not complete a request, or completed it with an error."""


def _until_late() -> Iterator[None]:
    """Yield until a device has had its time, whatever a look at it costs."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        yield


class PciFunction:
    """Function 1 of a slot of bus 0 without function 0, so that no firmware has seen the device.

    Its BARs are placed by us.
    """

    def __init__(self, guest: BareGuest, slot: int) -> None:
        self.guest = guest
        self._select = 0x80000000 | slot << 11 | 1 << 8

    def place(self, bar: int, address: int) -> None:
        """Put a BAR at *address*, and let the device answer and master the bus."""
        self._write(0x10 + 4 * bar, address)
        self._write(0x04, _IO_MEMORY_MASTER)

    def _write(self, register: int, value: int) -> None:
        self.guest.done("outl", 0xCF8, self._select | register)
        self.guest.done("outl", 0xCFC, value)


def store(guest: BareGuest, gpa: int, data: bytes) -> None:
    """Write *data*, padded with zeros to 64-bit words."""
    guest.write_bytes(gpa, data + bytes(-len(data) % 8))


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of guest memory in a virtio request; ``filled``: the device writes it."""

    gpa: int
    size: int
    filled: bool = False


class Virtqueue:
    """A split queue; one of the largest size takes PAGES pages."""

    PAGES = 8
    MODERN_SIZE = 256

    def __init__(
        self, guest: BareGuest, gpa: int, notify: Callable[[], None], size: int = MODERN_SIZE
    ) -> None:
        self.descriptors = gpa
        self.available = gpa + 16 * size
        self.used = -(-(self.available + 4 + 2 * size) // PAGE_SIZE) * PAGE_SIZE
        self._guest, self._notify = guest, notify
        self._shadow = bytearray(4 + 2 * size + 4)
        self._sent = self._next = 0

    def request(self, buffers: Sequence[Buffer]) -> None:
        """Pass one chain of *buffers* and wait until the device has used it."""
        self.post(buffers)
        for _ in _until_late():
            if self._guest.value("read", self.used) >> 16 & 0xFFFF == self._sent:
                return
        raise DeviceError("the virtio device did not use the buffers")

    def post(self, buffers: Sequence[Buffer]) -> None:
        """Pass one chain of *buffers*."""
        head = self._next
        for number, buffer in enumerate(buffers):
            more = number < len(buffers) - 1
            flags = (1 if more else 0) | (2 if buffer.filled else 0)
            entry = struct.pack("<QIHH", buffer.gpa, buffer.size, flags, self._next + 1)
            store(self._guest, self.descriptors + 16 * self._next, entry)
            self._next += 1
        struct.pack_into("<H", self._shadow, 4 + 2 * self._sent, head)
        self._sent += 1
        struct.pack_into("<H", self._shadow, 2, self._sent)
        for at in range((2 + 2 * self._sent) & ~7, -1, -8):  # the index is in the first word
            store(self._guest, self.available + at, bytes(self._shadow[at : at + 8]))
        self._notify()


def legacy_queue(function: PciFunction, port: int, gpa: int, queue: int = 0) -> Virtqueue:
    """Start a virtio device by its legacy interface, at I/O ports *port*; return one queue."""
    guest = function.guest
    function.place(0, port | 1)
    for status in (0, 1, 3):
        guest.done("outb", port + 18, status)
    guest.done("outl", port + 4, 0)
    guest.done("outb", port + 14, queue)
    size = guest.value("inl", port + 12) & 0xFFFF
    guest.done("outl", port + 8, gpa // PAGE_SIZE)
    guest.done("outb", port + 18, 7)
    return Virtqueue(guest, gpa, lambda: guest.done("outb", port + 16, queue), size)


def modern_queue(function: PciFunction, bar: int, gpa: int) -> Virtqueue:
    """Start a virtio device with ``iommu_platform=on`` by the interface of version 1.

    Its registers, at *bar*, are written 64 bits at a time: QEMU takes that as two neighbours.
    """
    guest = function.guest
    function.place(5, 0)
    function.place(4, bar)
    queue = Virtqueue(guest, gpa, lambda: guest.done("write", bar + 0x3000, 0))

    def status(value: int) -> None:
        guest.done("write", bar + 20, Virtqueue.MODERN_SIZE << 32 | value)

    for value in (0, 1, 3):
        status(value)
    guest.done("write", bar + 8, 0x3 << 32 | 1)  # bits 32 and 33: version 1, access platform
    status(11)
    registers = {32: queue.descriptors, 40: queue.available, 48: queue.used}
    for register, value in registers.items():
        guest.done("write", bar + register, value)
    guest.done("write", bar + 28, gpa << 32 | 1)
    status(15)
    return queue


def virtio_block_write(queue: Virtqueue, guest: BareGuest, work: int, data: int) -> None:
    """Write the sector at *data* to sector 0; *work* is a shared page."""
    store(guest, work, struct.pack("<IIQ", 1, 0, 0))
    status = work + 64
    guest.done("write", status, 0xFF)
    queue.request([Buffer(work, 16), Buffer(data, SECTOR), Buffer(status, 1, filled=True)])
    if guest.value("read", status) & 0xFF:
        raise DeviceError("virtio-blk reported an error")


def virtio_net_send(queue: Virtqueue, work: int, data: int, size: int) -> None:
    """Send *size* bytes at *data* as a frame."""
    queue.request([Buffer(work, 10), Buffer(data, size)])


class NinePea:
    """Enough of 9P2000.L to make a file and write to it."""

    def __init__(self, queue: Virtqueue, guest: BareGuest, work: int) -> None:
        self._queue, self._guest, self._work = queue, guest, work
        self._answer = work + PAGE_SIZE // 2

    def write_file(self, name: str, data: int, size: int) -> None:
        """Create *name* and write *size* bytes at *data* to it."""
        self._call(100, struct.pack("<I", 8192) + _string("9P2000.L"))
        self._call(104, struct.pack("<II", 1, 0xFFFFFFFF) + _string("") * 2 + bytes(4))
        self._call(14, struct.pack("<I", 1) + _string(name) + struct.pack("<III", 0x41, 0o600, 0))
        self._call(118, struct.pack("<IQI", 1, 0, size), Buffer(data, size))

    def _call(self, kind: int, body: bytes, *data: Buffer) -> None:
        size = 7 + len(body) + sum(buffer.size for buffer in data)
        message = struct.pack("<IBH", size, kind, 1) + body
        store(self._guest, self._work, message)
        answer = Buffer(self._answer, 1024, filled=True)
        self._queue.request([Buffer(self._work, len(message)), *data, answer])
        said = self._guest.value("read", self._answer) >> 32 & 0xFF
        if said != kind + 1:
            raise DeviceError(f"9p answered {said} to {kind}")


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text)) + text.encode()


class Nvme:
    """An NVMe controller with one I/O queue pair; needs PAGES pages."""

    PAGES = 4

    def __init__(self, function: PciFunction, bar: int, gpa: int) -> None:
        self._guest, self._bar = function.guest, bar
        function.place(1, 0)
        function.place(0, bar)
        admin, done, self._io, self._io_done = (gpa + i * PAGE_SIZE for i in range(self.PAGES))
        self._admin, self._admin_done = admin, done
        self._guest.done("write", bar + 0x24, admin << 32 | 7 << 16 | 7)
        self._guest.done("write", bar + 0x2C, done << 32)
        self._guest.done("write", bar + 0x30, done)
        self._guest.done("write", bar + 0x14, 4 << 20 << 32 >> 32 | 6 << 16 | 1)
        self._tails = [0, 0]
        self._command(0, 0x05, prp=self._io_done, dword10=7 << 16 | 1, dword11=1)
        self._command(0, 0x01, prp=self._io, dword10=7 << 16 | 1, dword11=1 << 16 | 1)

    def write_sector(self, data: int) -> None:
        """Write the sector at *data* to sector 0."""
        self._command(1, 0x01, prp=data, namespace=1)

    def _command(
        self, queue: int, opcode: int, *, prp: int,
        namespace: int = 0, dword10: int = 0, dword11: int = 0,
    ) -> None:  # fmt: skip
        tail = self._tails[queue]
        entry = struct.pack("<IIQQQQ", opcode | tail << 16, namespace, 0, 0, prp, 0)
        entry += struct.pack("<IIIIII", dword10, dword11, 0, 0, 0, 0)
        store(self._guest, (self._io if queue else self._admin) + 64 * tail, entry)
        self._tails[queue] = tail + 1
        self._guest.done("write", self._bar + 0x1000 + 8 * queue, tail + 1)
        done = (self._io_done if queue else self._admin_done) + 16 * tail + 8
        for _ in _until_late():
            status = self._guest.value("read", done) >> 48
            if status & 1:
                break
        else:
            raise DeviceError(f"NVMe command {opcode:#x} was not completed")
        if status >> 1:
            raise DeviceError(f"NVMe command {opcode:#x} ended with status {status >> 1:#x}")


class Ahci:
    """The first port of an AHCI controller; needs a page for its lists and tables."""

    _PORT = 0x100

    def __init__(self, function: PciFunction, bar: int, gpa: int) -> None:
        self._guest, self._port, self._gpa = function.guest, bar + self._PORT, gpa
        function.place(5, bar)
        self._guest.done("write", bar, 0x80000000 << 32)
        self._guest.done("write", self._port + 0x00, gpa)
        self._guest.done("write", self._port + 0x08, gpa + 0x400)
        self._guest.done("write", self._port + 0x18, 0x17)

    def write_sector(self, data: int) -> None:
        """Write the sector at *data* to sector 0."""
        table = self._gpa + 0x800
        fis = struct.pack("<BBBBBBBBBBBBBB", 0x27, 0x80, 0x35, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 1, 0)
        store(self._guest, table, fis)
        store(self._guest, table + 0x80, struct.pack("<QII", data, 0, SECTOR - 1))
        store(self._guest, self._gpa, struct.pack("<IIQ", 5 | 1 << 6 | 1 << 16, 0, table))
        self._guest.done("write", self._port + 0x38, 1)
        for _ in _until_late():
            if not self._guest.value("read", self._port + 0x38) & 1:
                break
        else:
            raise DeviceError("AHCI did not finish the command")
        if self._guest.value("read", self._port + 0x20) & 1:
            raise DeviceError("the disk reported an error")


class FirmwareConfig:
    """fw_cfg by its DMA interface; needs two shared pages."""

    _SELECT, _READ, _WRITE = 0x08, 0x02, 0x10
    _DIRECTORY = 0x19
    _ENTRY = struct.Struct(">IHH56s")

    def __init__(self, guest: BareGuest, gpa: int) -> None:
        self._guest, self._descriptor, self._data = guest, gpa, gpa + PAGE_SIZE

    def key(self, name: str) -> int:
        """Return the number of the file *name*."""
        self.transfer(self._DIRECTORY, self._READ, self._data, 4 + 40 * self._ENTRY.size)
        listing = self._guest.read_bytes(self._data, 4 + 40 * self._ENTRY.size + 4)
        for number in range(int.from_bytes(listing[:4], "big")):
            _, key, _, found = self._ENTRY.unpack_from(listing, 4 + number * self._ENTRY.size)
            if found.rstrip(b"\0") == name.encode():
                return int(key)
        raise DeviceError(f"fw_cfg has no file {name}")

    def write(self, key: int, data: int, size: int) -> None:
        """Write *size* bytes at *data* to the file; an error is the caller's to find out."""
        self.transfer(key, self._WRITE, data, size)

    def read(self, key: int, size: int) -> bytes:
        """Return what the file holds."""
        self.transfer(key, self._READ, self._data, size)
        return self._guest.read_bytes(self._data, size)

    def transfer(self, key: int, way: int, gpa: int, size: int) -> None:
        """Have fw_cfg copy between the start of the file and guest memory."""
        control = key << 16 | self._SELECT | way
        descriptor = self._guest.reach(self._descriptor)
        self._guest.value("fwcfg-dma", control, size, gpa, descriptor)


class Floppy:
    """The floppy disk, whose data goes by ISA DMA: below 16 MiB, and on no bus."""

    _STATUS, _DATA = 0x3F4, 0x3F5
    _WANTS_BYTE, _HAS_BYTE = 0x80, 0xC0

    def __init__(self, guest: BareGuest) -> None:
        self._guest = guest
        self._out((0x3F2, 0x00), (0x3F2, 0x1C))
        for _ in range(4):
            self._command(0x08, answers=2)
        self._command(0x03, 0xDF, 0x02)
        self._command(0x07, 0x00)
        self._command(0x08, answers=2)

    def write_sector(self, data: int) -> None:
        """Write the sector at *data* to the first sector."""
        low, high, top = data & 0xFF, data >> 8 & 0xFF, data >> 16
        self._out(
            (0x0A, 0x06), (0x0C, 0), (0x0B, 0x4A), (0x04, low), (0x04, high), (0x81, top),
            (0x05, 0xFF), (0x05, 0x01), (0x0A, 0x02),
        )  # fmt: skip
        self._command(0x45, 0, 0, 0, 1, 2, 1, 0x1B, 0xFF, answers=7)

    def _command(self, *data: int, answers: int = 0) -> None:
        for byte in data:
            self._await(self._WANTS_BYTE)
            self._guest.done("outb", self._DATA, byte)
        for _ in range(answers):
            self._await(self._HAS_BYTE)
            self._guest.value("inb", self._DATA)

    def _await(self, status: int) -> None:
        for _ in _until_late():
            if self._guest.value("inb", self._STATUS) & 0xC0 == status:
                return
        raise DeviceError("the floppy controller is not ready")

    def _out(self, *writes: tuple[int, int]) -> None:
        for port, byte in writes:
            self._guest.done("outb", port, byte)
