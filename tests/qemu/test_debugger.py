# SPDX-License-Identifier: GPL-2.0-or-later
"""How a debugger finds the memory of a debuggable VM, and that it finds none of another.

It asks for RAM's place and for a host address, and then reads QEMU's own memory; so do these tests.
"""

import ctypes
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import BareMachine, Event, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]
ALIAS = {"tdx": 1 << 47, "sev": 1 << 51, "sev-es": 1 << 51, "sev-snp": 1 << 51}
ADDRESS = re.compile(r"Host virtual address for 0x([0-9a-f]+) \(ram0\) is 0x([0-9a-f]+)")
RAM = re.compile(r"^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio 0, ram\): ", re.MULTILINE)
ZERO = f"{0:#018x}"
LOW_BYTES = 0xA0000  # RAM below a PC's hole; the rest is from 1 MiB on


async def hmp(vm: BareMachine, line: str) -> str:
    answer = await vm.qmp.execute("human-monitor-command", {"command-line": line})
    return str(answer).replace("\r", "")


async def host_address(vm: BareMachine, gpa: int) -> int:
    found = ADDRESS.match(await hmp(vm, f"gpa2hva {gpa:#x}"))
    assert found is not None
    assert int(found[1], 16) == gpa
    return int(found[2], 16)


class Place(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def read(vm: BareMachine, address: int, size: int) -> bytes:
    """Read QEMU's memory, as drgn does; raise OSError."""
    buffer = ctypes.create_string_buffer(size)
    here, there = Place(ctypes.addressof(buffer), size), Place(address, size)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.process_vm_readv(
        vm.process.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, ctypes.c_ulong(0)
    )
    if done != size:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw


def listed(text: str) -> list[tuple[int, int]]:
    """Return the RAM of the first address space that is called memory, as drgn looks for it."""
    start = text.index(' AS "memory"')
    end = text.find("FlatView", start)
    return [(int(low, 16), int(high, 16)) for low, high in RAM.findall(text[start:end])]


def allowed(*where: tuple[int, int]) -> Iterable[Event]:
    return [
        Event(Kind.HOST_FAULT, gpa, size // PAGE_SIZE, Actor.MONITOR, device="monitor",
              before=1, after=1, verdict=Verdict.ALLOW)  # type: ignore[arg-type]
        for gpa, size in where
    ]  # fmt: skip


@pytest.mark.parametrize("coco", PROFILES)
async def test_ram_is_listed_with_and_without_the_address_bit(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, debuggable=True) as vm:
        high = vm.spec.memory_bytes
        bits = [0, *([ALIAS[coco]] if coco in ALIAS else [])]
        assert listed(await hmp(vm, "info mtree -f")) == [
            place
            for bit in bits
            for place in ((bit, bit + LOW_BYTES - 1), (bit + (1 << 20), bit + high - 1))
        ]
        assert "ram" not in (await hmp(vm, "info mtree")).split("\n", 1)[0]


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_page_is_read_on_its_side_wherever_it_goes(boot: Boot, coco: str) -> None:
    mine, hosts = secrets.token_bytes(32), secrets.token_bytes(32)
    async with boot(coco=coco, debuggable=True) as vm:
        start = await host_address(vm, 1 << 20)
        at = start + page(0) - (1 << 20)
        vm.guest.write_bytes(page(0), mine)
        assert read(vm, at, 32) == mine
        await vm.convert("shared", page(0), count=2, content="discard")
        await vm.qmp.execute("human-monitor-command", {"command-line": f"xp /1xb {page(0):#x}"})
        shared = vm.files.fds.shared
        vm.write_shared(page(0), hosts)
        assert read(vm, at, 32) == hosts
        await vm.convert("private", page(0), content="discard")
        assert read(vm, at, 32) != hosts
        vm.write_shared(page(1), hosts)
        await vm.convert("private", page(1), content="preserve")
        assert read(vm, at + PAGE_SIZE, 32) == hosts
        assert (shared is None) == (coco == "generic")
        alias = await host_address(vm, (1 << 20) | ALIAS.get(coco, 0))
        assert alias == start


async def test_an_error_page_cannot_be_read(boot: Boot) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        at = await host_address(vm, 1 << 20) + page(0) - (1 << 20)
        assert read(vm, at, 8) == bytes(8)
        await vm.change("poison", page(0))
        with pytest.raises(OSError, match="Bad address"):
            read(vm, at, 8)


async def test_a_rewind_takes_the_view_back(boot: Boot) -> None:
    secret = secrets.token_bytes(32)
    async with boot(coco="tdx", debuggable=True) as vm:
        at = await host_address(vm, 1 << 20) + page(0) - (1 << 20)
        vm.guest.write_bytes(page(0), secret)
        await vm.qmp.execute("restricted-memory-checkpoint", {"id": "ram0", "name": "one"})
        await vm.convert("shared", page(0))
        assert read(vm, at, 32) != secret
        await vm.qmp.execute("restricted-memory-rewind", {"id": "ram0", "name": "one"})
        assert read(vm, at, 32) == secret
        vm.is_intact = False  # its journal goes back, which the check knows nothing of


async def test_each_address_is_in_the_journal_with_what_can_be_read_from_it(boot: Boot) -> None:
    async with boot(coco="sev-snp", debuggable=True) as vm:
        await vm.events()
        await hmp(vm, "info mtree -f")
        assert await vm.events() == []
        await host_address(vm, 0x1000)
        await host_address(vm, 1 << 20 | 1 << 51)
        rest = vm.spec.memory_bytes - (1 << 20)
        assert await vm.events() == [*allowed((0, LOW_BYTES), (1 << 20, rest))]


@pytest.mark.parametrize("coco", PROFILES)
async def test_control_of_another_vm_no_address_is_told(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        vm.guest.write_bytes(page(0), secrets.token_bytes(32))
        assert [low for low, _ in listed(await hmp(vm, "info mtree -f")) if low < page(1)] == []
        for gpa in (page(0), page(0) | ALIAS.get(coco, 1 << 51)):
            assert "is not RAM" in await hmp(vm, f"gpa2hva {gpa:#x}") or (
                "No memory is mapped" in await hmp(vm, f"gpa2hva {gpa:#x}")
            )


@pytest.mark.parametrize("coco", ["sev", "sev-es", "sev-snp"])
async def test_the_policy_of_a_debuggable_guest_says_so(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, debuggable=True) as vm:
        assert "debug: on" in await hmp(vm, "info sev")
    async with boot(coco=coco) as vm:
        assert "debug: off" in await hmp(vm, "info sev")


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_page_without_content_reads_as_zeros_and_stays_without(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    """The books are compared when the VM ends: a read of a hole would give it storage."""
    socket = tmp_path / "gdb"
    options = {"coco": coco, "debuggable": True, "gdb": f"unix:{socket},server=on,wait=off"}
    async with boot(**options) as vm:
        address, value = (await hmp(vm, f"xp /1gx {page(40):#x}")).split()
        assert (int(address.rstrip(":"), 16), value) == (page(40), ZERO)  # of any width
        with GdbRemote(socket) as gdb:
            gdb.use_physical_addresses()
            assert gdb.read(page(41), 8) == bytes(8)
            assert gdb.write(page(42), b"content!").startswith("E")
        assert {vm.state(page(number)) for number in (40, 41, 42)} == {PageState.PENDING}
        vm.records()
        found = np.concatenate(vm.journal)
        found = found[found["kind"] == Kind.HOST_FAULT]
        told = {
            int(record["gpa"]) // PAGE_SIZE: Verdict(int(record["verdict"])) for record in found
        }
        verdicts = [told[page(number) // PAGE_SIZE] for number in (40, 41, 42)]
        assert verdicts == [Verdict.ALLOW, Verdict.ALLOW, Verdict.DENY]
        vm.guest.write_bytes(page(43), b"content!")
        with GdbRemote(socket) as gdb:  # the control
            gdb.use_physical_addresses()
            assert gdb.read(page(43), 8) == b"content!"
            assert gdb.write(page(43), b"changed!") == "OK"
