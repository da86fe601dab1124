# SPDX-License-Identifier: GPL-2.0-or-later
"""Restricted files of every generation as the memory of a running guest."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused, ConfigError
from cvmlab.generations.engine import emulate
from cvmlab.generations.files.guest_memfd import GuestMemfd
from cvmlab.generations.files.open_file import Fd
from cvmlab.generations.host.live_file import LiveFile
from cvmlab.generations.restrictedmem import RestrictedKernel
from cvmlab.generations.vms.exits import VmType
from cvmlab.generations.vms.kvm import Kvm
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.qemu.bare import pattern_word
from tests.qemu.test_upgrade import WAIT_S, passes


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("state_home"),
]
MakeVm = Callable[..., Vm]
MEMORY = 128 << 20
PAGE = 0x2400000  # the guest fills it, waits for a key, and then touches it
SCRIPT = f"-- fill {PAGE:x} 1000 pattern;churn 2000000 4;read {PAGE:x};--"
GENERATIONS = ["C", "D", "E", "F"]


def make_file(generation: str) -> Fd:
    # The oldest of C takes no mount.
    kernel = emulate(generation=generation, version="v10" if generation == "C" else None)
    if isinstance(kernel, RestrictedKernel):
        fd = kernel.memfd_restricted()
        fd.truncate(MEMORY)
        return fd
    assert isinstance(kernel, Kvm)
    return kernel.create_vm(VmType.SW_PROTECTED).create_guest_memfd(
        MEMORY, 1 if generation == "F" else 0
    )


async def end(vm: Vm) -> int | None:
    """Press the key: the guest touches the page, and ends with 1 if it could not."""
    await vm.send("x")
    outcome = await vm.wait_exit(timeout_s=WAIT_S)
    assert outcome.end is End.POWERED_OFF
    return outcome.guest_status


def word(fd: Fd) -> int:
    return int.from_bytes(os.pread(fd.fileno(), 8, PAGE), "little")


def kinds(vm: Vm, wanted: Kind) -> list[tuple[int, int]]:
    """Return address and flags of the journal's records of a kind."""
    return [
        (int(record["gpa"]), int(record["flags"]))
        for record in JournalFile(vm.run.events).of_kind(wanted)
    ]


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_punched_page_is_pending_and_the_guest_s_next_touch_gets_a_new_one(
    churning: MakeVm, generation: str
) -> None:
    fd = make_file(generation)
    async with churning(private_file=fd, append=SCRIPT, keep=True) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        assert word(fd) == pattern_word(PAGE)
        before = os.fstat(fd.fileno()).st_blocks
        accepted = vm.pages.counters()["accepted"]
        await file.punch(PAGE, PAGE_SIZE)
        assert vm.pages.state_of(PAGE) is PageState.PENDING
        assert not file.inode.storage.has(PAGE // PAGE_SIZE)
        assert os.fstat(fd.fileno()).st_blocks == before - PAGE_SIZE // 512
        await passes(vm)
        assert await end(vm) == 0
        assert vm.pages.state_of(PAGE) is PageState.PRIVATE
        assert vm.pages.counters()["accepted"] == accepted + 1
        assert word(fd) == 0
        await file.unbind(vm)
    assert kinds(vm, Kind.INVALIDATE) == [(PAGE, 0), (PAGE, 1)]
    vm.run.close(keep=False)
    fd.close()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_bad_page_is_a_machine_check(churning: MakeVm, generation: str) -> None:
    fd = make_file(generation)
    async with churning(private_file=fd, append=SCRIPT, keep=True) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        await file.set_error(PAGE)
        assert vm.pages.state_of(PAGE) is PageState.POISONED
        await passes(vm)
        assert await end(vm) == 1
        # A VM that refuses a change keeps the file from it, too.
        await file.unbind(vm)
    assert [gpa for gpa, _ in kinds(vm, Kind.GUEST_FAULT)] == [PAGE]
    assert kinds(vm, Kind.INVALIDATE) == [(PAGE, 0), (PAGE, 1)]
    vm.run.close(keep=False)
    fd.close()


@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_conversion_keeps_content_in_place_and_loses_it_between_two_files(
    churning: MakeVm, generation: str, coco: str
) -> None:
    fd = make_file(generation)
    async with churning(private_file=fd, append=SCRIPT, coco=coco) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        await file.convert(PAGE, PAGE_SIZE, "shared")
        assert vm.pages.state_of(PAGE) is PageState.SHARED
        kept = coco == "generic"
        assert word(fd) == (pattern_word(PAGE) if kept else 0)
        assert file.inode.storage.has(PAGE // PAGE_SIZE) is kept
        await file.convert(PAGE, PAGE_SIZE, "private")
        assert vm.pages.state_of(PAGE) is not PageState.SHARED
        await passes(vm)
        assert await end(vm) == 0
        await file.unbind(vm)
    fd.close()


async def test_a_vm_that_refuses_cancels_the_change_of_the_file(churning: MakeVm) -> None:
    fd = make_file("F")
    async with churning(private_file=fd, append=SCRIPT) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        await file.set_error(PAGE)
        with pytest.raises(CommandRefused, match="page-poisoned"):
            await file.convert(PAGE, PAGE_SIZE, "shared")
        assert isinstance(file.inode, GuestMemfd)
        assert file.inode.private[PAGE // PAGE_SIZE] == 1
        with pytest.raises(ConfigError, match="not all RAM"):
            await file.punch(0xA0000, PAGE_SIZE)
        with pytest.raises(OSError, match=r"unaligned|multiple") as caught:
            await file.punch(PAGE, 5)
        assert caught.value.errno == errno.EINVAL
        await passes(vm)
        await file.unbind(vm)
    fd.close()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_two_vms_cannot_have_one_file(churning: MakeVm, generation: str) -> None:
    fd = make_file(generation)
    async with churning(private_file=fd, append=SCRIPT, name="first") as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        with pytest.raises(ConfigError, match="already bound to a VM"):
            async with churning(private_file=fd):
                pass
        async with Vm.attach("first") as other:
            with pytest.raises(OSError, match="bound already"):
                await file.bind(other)
        async with churning() as stranger:
            with pytest.raises(ConfigError, match="another file"):
                await file.bind(stranger)
        await passes(vm)
        await file.unbind(vm)
    fd.close()


async def test_a_binding_keeps_the_file_and_the_last_one_frees_it(churning: MakeVm) -> None:
    fd = make_file("C")
    inode = fd.inode
    number = identity(os.fstat(fd.fileno()))
    async with churning(private_file=fd, append=SCRIPT) as vm:
        file = LiveFile(fd)
        await file.bind(vm)
        await passes(vm)
        fd.close()
        assert not inode.evicted
        assert inode.world.files == 1
        await file.punch(PAGE, PAGE_SIZE)
        await passes(vm)
        assert await end(vm) == 0
        assert inode.storage.usage.host_bytes > 0
        await file.unbind(vm)
        assert (inode.evicted, inode.world.files) == (True, 0)
    assert number not in open_inodes()


def identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def open_inodes() -> set[tuple[int, int]]:
    """Return the files that this process has open, and so its dead children had."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(identity(path.stat()))
    return found


async def test_another_terminal_s_vm_can_be_bound(churning: MakeVm) -> None:
    fd = make_file("D")
    async with churning(private_file=fd, append=SCRIPT, name="theirs") as vm:
        await passes(vm)
        async with Vm.attach("theirs") as other:
            file = LiveFile(fd)
            await file.bind(other)
            await file.convert(PAGE, 4 * PAGE_SIZE, "shared")
            await file.unbind(other)
        assert vm.pages.state_of(PAGE + 3 * PAGE_SIZE) is PageState.SHARED
        assert await vm.convert(GpaRange(PAGE, 4 * PAGE_SIZE), "private") == 4
        assert await end(vm) == 0
    fd.close()
