# SPDX-License-Identifier: GPL-2.0-or-later
"""gdb on a debug TD.  Any other one has no gdb server: see test_cpu_state."""

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote
from tests.qemu.tdx import INFO, tdcall


pytestmark = pytest.mark.qemu

SECRET = bytes(range(1, 9))
RDI, RIP = 5, 16  # in gdb's order


def address_of(vm: BareMachine, function: str) -> int:
    """Return where the guest has *function*."""
    assert vm.spec.kernel is not None
    with vm.spec.kernel.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = table.get_symbol_by_name(function)
        assert found
        return int(found[0]["st_value"])


def registers(gdb: GdbRemote) -> list[int]:
    """Return RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8 to R15, RIP."""
    content = bytes.fromhex(gdb.ask("g"))
    return [int.from_bytes(content[at : at + 8], "little") for at in range(0, 17 * 8, 8)]


async def test_a_debug_td_stops_at_a_function_and_shows_its_memory(
    boot: Boot, tmp_path: Path
) -> None:
    socket = tmp_path / "gdb"
    async with boot(coco="tdx", debuggable=True, gdb=f"unix:{socket},server=on,wait=off") as vm:
        tdcall(vm.guest, INFO)
        vm.guest.write_bytes(page(0), SECRET)
        probe = address_of(vm, "probe_read64")
        with GdbRemote(socket) as gdb:
            assert gdb.ask(f"Z0,{probe:x},1") == "OK"
            gdb.resume()
            vm.guest.start("read", page(0))
            assert gdb.wait_stop().startswith("T05")
            seen = registers(gdb)
            assert (seen[RDI], seen[RIP]) == (page(0), probe)
            assert gdb.read(page(0), 8) == SECRET
            assert gdb.write(page(0), SECRET[::-1]) == "OK"
            assert gdb.ask(f"z0,{probe:x},1") == "OK"
        assert vm.guest.finish() == (int.from_bytes(SECRET, "big"),)
