# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that QEMU shares with others are input: garbage, seals and truncation do not hurt it."""

import fcntl
import os
import random
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import CommandRefused, VmExited
from cvmlab.memory.records import SHARED
from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare_machine import EDU_BUFFER, END_TIMEOUT_S, MEMORY_BYTES, BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.plain import BACKEND, machine, plain_qemu
from tests.qemu.test_refusals import refusal


pytestmark = [pytest.mark.qemu, pytest.mark.fault("Q9")]

F_SEAL_FUTURE_WRITE = 0x10
FIELDS: Mapping[str, Any] = SHARED.fields or {}
GARBLED = [
    "phase", "head", "dropped", "tail", "pages", "counters", "generation", "flags", "capacity",
]  # fmt: skip
ALL_ONES = b"\xff" * 8


async def use(vm: BareMachine) -> None:
    """Do all that reads or writes the shared files."""
    await vm.info()
    vm.guest.run("touch", page(0), 4)
    vm.guest.done("edu-dma", page(0), EDU_BUFFER, 32)
    for to in ("shared", "private"):
        with suppress(CommandRefused):
            await vm.convert(to, page(0), count=8)
    await vm.qmp.execute("query-restricted-memory-ranges", {"id": "ram0"})
    await vm.qmp.execute("stop")
    await vm.qmp.execute("cont")
    await vm.qmp.execute("system_reset")
    vm.guest.wait_hello()
    await vm.info()


@pytest.mark.parametrize("field", GARBLED)
@pytest.mark.parametrize("coco", ["generic", "sw-protected"])
async def test_garbage_in_the_header(boot: Boot, coco: str, field: str) -> None:
    async with boot(coco=coco) as vm:
        vm.is_intact = False
        kind, offset = FIELDS[field][:2]
        for value in (ALL_ONES, struct.pack("<Q", 1 << 63), struct.pack("<Q", 77)):
            os.pwrite(vm.files.fds.ring, value * (kind.itemsize // 8), offset)
            await use(vm)


@pytest.mark.parametrize("coco", ["generic", "sw-protected", "tdx", "sev-snp"])
async def test_garbage_in_the_table(boot: Boot, coco: str) -> None:
    generator = random.Random(5)
    first = page(0) // 4096
    async with boot(coco=coco, cont=False) as vm:
        vm.is_intact = False
        os.pwrite(vm.files.fds.table, generator.randbytes(2048), first)
        for verb in ("discard", "poison", "discard", "accept"):
            with suppress(CommandRefused):
                await vm.change(verb, page(0), count=2048)
            os.pwrite(vm.files.fds.table, generator.randbytes(2048), first)
            await vm.qmp.execute("query-restricted-memory-ranges", {"id": "ram0", "limit": 65536})
        await vm.info()


async def test_another_owner_is_a_named_end(boot: Boot, tmp_path: Path) -> None:
    async with boot(coco="generic") as vm:
        vm.is_intact = False
        await vm.qmp.execute("stop")
        os.pwrite(vm.files.fds.ring, struct.pack("<Q", 4711), FIELDS["owner"][1])
        with suppress(VmExited):
            await vm.qmp.execute("cont")
        assert await vm.process.wait_for(END_TIMEOUT_S) == 1
    assert "the guest runs in process 4711" in (tmp_path / "qemu.log").read_text()


@contextmanager
def sealable(size: int) -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["private-fd", "shared-fd"])
def test_nobody_can_seal_or_shorten_a_file_of_a_running_guest(
    patched_qemu: Path, tmp_path: Path, name: str
) -> None:
    with sealable(MEMORY_BYTES) as fd:
        backend = f"{BACKEND},profile=sw-protected,{name}={fd}"
        command = machine(patched_qemu, rom_dirs(), backend=backend)
        with plain_qemu(command, tmp_path, keep_fds=[fd]) as qemu, qemu.qmp() as qmp:
            with pytest.raises(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
            ranges = [{"gpa": page(0), "size": 4096}]
            for to in ("shared", "private"):
                qmp.command("restricted-memory-convert", id="ram0", to=to, ranges=ranges)


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, F_SEAL_FUTURE_WRITE])
def test_a_file_that_cannot_be_written_is_refused(patched_qemu: Path, seal: int) -> None:
    with sealable(MEMORY_BYTES) as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
        backend = f"{BACKEND},private-fd={fd}"
        line = refusal(machine(patched_qemu, rom_dirs(), backend=backend), keep_fds=[fd])
    assert line.endswith(f"private-fd={fd} is sealed against writing")
