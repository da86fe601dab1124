# SPDX-License-Identifier: GPL-2.0-or-later
"""Page-table walks: memory that a CPU, or a debugger, reads in order to find other memory."""

import re
from pathlib import Path

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected"]
VECTOR_MC = 18
GIB = 1 << 30
PRESENT_WRITABLE = 3
# A page directory maps a GiB.  The guest itself lives in the first.
UNUSED_GIB = 2


async def hmp(vm: BareMachine, line: str) -> str:
    return str(await vm.qmp.execute("human-monitor-command", {"command-line": line}))


async def table_entry(vm: BareMachine) -> int:
    """Return the GPA of the entry that points to the page directory of the unused GiB."""
    found = re.search(r"CR3=([0-9a-f]+)", await hmp(vm, "info registers"))
    assert found is not None
    pointers = vm.guest.value("read", int(found[1], 16)) & -PAGE_SIZE
    return int(pointers) + 8 * UNUSED_GIB


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_poisoned_page_table_is_a_machine_check_of_who_needed_it(
    boot: Boot, coco: str
) -> None:
    async with boot(coco=coco) as vm:
        directory = vm.guest.value("read", await table_entry(vm)) & -PAGE_SIZE
        await vm.change("poison", directory)
        await vm.events()
        fault = vm.guest.fault("read", UNUSED_GIB * GIB)
        assert (fault.vector, vm.function(fault.rip)) == (VECTOR_MC, "probe_read64")
        assert fault.addr is not None
        assert fault.addr // PAGE_SIZE == directory // PAGE_SIZE
        (event,) = await vm.events()
        assert (event.kind, event.gpa) == (Kind.GUEST_FAULT, directory)
        assert (event.before, event.rip) == (PageState.POISONED, "probe_read64")
        assert vm.guest.value("ping") == 0


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_debuggers_walk_accepts_nothing(boot: Boot, tmp_path: Path, coco: str) -> None:
    extra = ("-gdb", f"unix:{tmp_path}/gdb,server=on,wait=off")
    async with boot(coco=coco, debuggable=True, extra=extra) as vm:
        entry = await table_entry(vm)
        vm.guest.done("write", entry, page(0) | PRESENT_WRITABLE)
        await vm.events()
        before = vm.table.counts(), await vm.counters(), vm.files.storage_bytes()
        assert "Cannot access memory" in await hmp(vm, f"x /1xg {UNUSED_GIB * GIB:#x}")
        with GdbRemote(tmp_path / "gdb") as gdb:
            assert gdb.read(UNUSED_GIB * GIB, 8) == "E14"
        assert (vm.table.counts(), await vm.counters(), vm.files.storage_bytes()) == before
        assert await vm.events() == []
        # The control: the guest's own walk does accept the page.
        vm.guest.fault("read", UNUSED_GIB * GIB)
        (event,) = await vm.events()
        assert (event.kind, event.gpa) == (Kind.ACCEPT, page(0))


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_debuggers_walk_through_private_tables_is_a_host_fault(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    extra = ("-gdb", f"unix:{tmp_path}/gdb,server=on,wait=off")
    async with boot(coco=coco, extra=extra) as vm:
        await vm.convert("shared", page(0))
        vm.guest.done("write", page(0), 0x5E)
        await vm.events()
        assert "Cannot access memory" in await hmp(vm, f"x /1xg {page(0):#x}")
        with GdbRemote(tmp_path / "gdb") as gdb:
            assert gdb.read(page(0), 8) == "E14"
        seen = [(e.kind, e.actor, e.verdict, e.before) for e in await vm.events()]
        assert seen == [
            (Kind.HOST_FAULT, actor, Verdict.DENY, PageState.PRIVATE)
            for actor in (Actor.MONITOR, Actor.GDB)
        ]
