# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host gets for touching a private page: of a real guest_memfd, and of our host view."""

import errno
import mmap
import os
from collections.abc import Callable

import pytest

from cvmlab.generations import syscalls
from cvmlab.generations.host import host_view
from cvmlab.generations.syscalls import PAGE
from tests.oracle.realkvm import RealMachine, why_not
from tests.unit.generations.touching import signal_in_child


REASON = why_not() or host_view.supported()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
SIZE = 4 * PAGE


def real_mapping() -> int:
    machine = RealMachine()
    machine.create("f", SIZE, 1)
    machine.mmap("m", "f", 2 * SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
    return machine.address("m")


def our_mapping() -> int:
    fd = os.memfd_create("ours")
    os.ftruncate(fd, SIZE)
    return host_view.HostView(fd, 2 * SIZE).address


def number_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def by_system_calls(address: int) -> dict[str, int | None]:
    """Reach for the page in every way that has no signal; return the errnos."""
    memory = syscalls.as_buffer(address, PAGE)
    read_end, write_end = os.pipe()
    zero, own = os.open("/dev/zero", os.O_RDONLY), os.open("/proc/self/mem", os.O_RDWR)
    found = {
        "write": number_of(lambda: os.write(write_end, memory)),
        "readv": number_of(lambda: os.readv(zero, [memory])),
        "process_vm_readv": number_of(lambda: syscalls.read_memory(address, 1)),
        "process_vm_writev": number_of(lambda: syscalls.write_memory(address, b"x")),
        "vmsplice": number_of(lambda: syscalls.vmsplice(write_end, address, 8)),
        "/proc/self/mem": number_of(lambda: os.pread(own, 8, address)),
        "/proc/self/mem, write": number_of(lambda: os.pwrite(own, b"x", address)),
        "mlock": number_of(lambda: syscalls.lock(address, PAGE)),
    }
    for fd in (read_end, write_end, zero, own):
        os.close(fd)
    return found


@pytest.mark.parametrize("offset", [0, 5, PAGE + 1, SIZE, SIZE + 9], ids=hex)
def test_the_signal_is_the_same_and_at_the_same_byte(offset: int) -> None:
    assert signal_in_child(our_mapping, offset) == signal_in_child(real_mapping, offset)


def test_system_calls_fail_alike() -> None:
    machine = RealMachine()
    machine.create("f", SIZE, 1)
    machine.mmap("m", "f", SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)
    real = by_system_calls(machine.address("m"))
    machine.close()
    fd = os.memfd_create("ours")
    os.ftruncate(fd, SIZE)
    with host_view.HostView(fd, SIZE) as view:
        ours = by_system_calls(view.address)
    os.close(fd)
    assert real["write"] == errno.EFAULT
    assert ours == real
