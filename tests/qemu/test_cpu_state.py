# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU state of a guest with encrypted state comes out by no command, and each attempt is journaled.

Other guests' state is in the host's memory on hardware as well, so there the commands show it: that
is the control, beside a VM that was started for debugging.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.memory.records import FLAG_STATE, Actor, Kind, Verdict
from cvmlab.qemu.build import rom_dirs
from tests.qemu.conftest import Boot
from tests.qemu.cpustate import OTHERS, SAVING, SHOWING, Looker, StatePath, forms
from tests.qemu.plain import machine
from tests.qemu.test_refusals import refusal


pytestmark = pytest.mark.qemu

HIDING = ["tdx", "sev-es", "sev-snp"]
SHOWN = ["generic", "sw-protected", "sev"]
REFUSED = "the CPU state of this guest is encrypted, the host may not see it"


@asynccontextmanager
async def looking(boot: Boot, folder: Path, value: int, **options: Any) -> AsyncIterator[Looker]:
    """Boot a guest that holds *value* while the block runs."""
    files = folder / "files"
    files.mkdir()
    async with boot(**options) as vm:
        vm.guest.hold(value)
        await vm.events()
        yield Looker(vm, files)
        assert vm.guest.release() == value


async def attempt(look: Looker, path: StatePath, value: int) -> bool:
    """Try *path*; return whether the value came out."""
    said = await path.attempt(look)
    for file in look.folder.iterdir():
        file.unlink()
    return any(form in said for form in forms(value))


@pytest.mark.fault("L4")
@pytest.mark.parametrize("coco", HIDING)
async def test_no_path_shows_it_and_each_attempt_is_journaled(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    value = secrets.randbits(64) | 1 << 63
    async with looking(boot, tmp_path, value, coco=coco) as look:
        for path in SHOWING + OTHERS + SAVING:
            assert not await attempt(look, path, value), path.name
            records = look.vm.records()
            assert len(records) == 1, (path.name, len(records))
            (record,) = records
            assert record["kind"] == Kind.HOST_FAULT, path.name
            assert (record["actor"], record["verdict"]) == (Actor.MONITOR, Verdict.DENY), path.name
            assert bool(record["flags"] & FLAG_STATE) == (path not in SAVING), path.name


@pytest.mark.parametrize("coco", SHOWN)
async def test_control_it_is_shown_where_the_host_has_it(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    value = secrets.randbits(64) | 1 << 63
    async with looking(boot, tmp_path, value, coco=coco) as look:
        for path in SHOWING:
            assert await attempt(look, path, value), path.name
            assert len(look.vm.records()) == 0, path.name
        for path in SAVING:
            assert not await attempt(look, path, value), path.name


@pytest.mark.parametrize("coco", HIDING)
async def test_control_it_is_shown_when_the_vm_is_for_debugging(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    value = secrets.randbits(64) | 1 << 63
    async with looking(boot, tmp_path, value, coco=coco, debuggable=True) as look:
        for path in SHOWING:
            assert await attempt(look, path, value), path.name


@pytest.mark.fault("L4")
@pytest.mark.parametrize("items", ["in_asm", "op", "out_asm"])
@pytest.mark.parametrize("coco", [*SHOWN, *HIDING])
async def test_no_log_shows_the_instructions_of_private_memory(
    boot: Boot, tmp_path: Path, coco: str, items: str
) -> None:
    async with looking(boot, tmp_path, 1, coco=coco) as look:
        said = await look.hmp(f"logfile {look.folder}/log") + await look.hmp(f"log {items}")
        assert b"may not read it as a whole" in said
        await look.for_a_while()
        assert look.written() == b""
        (event,) = await look.vm.events()
        assert (event.kind, event.actor) == (Kind.HOST_FAULT, Actor.MONITOR)


async def test_harmless_logs_and_traces_are_not_refused(boot: Boot, tmp_path: Path) -> None:
    async with looking(boot, tmp_path, 1, coco="tdx") as look:
        assert await look.hmp("log guest_errors,unimp,nochain") == b""
        assert await look.hmp("trace-event rmem_page_accept on") == b""
        assert await look.hmp("trace-event rmem_page_accept off") == b""
        assert await look.hmp("print/x 0x10+1") == b"0x11\r\n"
        assert await look.hmp("log none") == b""
        assert len(look.vm.records()) == 0


TDX = ["-object", "tdx-guest,id=tdx0", "-machine", "confidential-guest-support=tdx0"]
RAM = "memory-backend-restricted,id=ram0,size=64M,profile="


@pytest.mark.fault("L4")
@pytest.mark.parametrize(
    ("profile", "words", "sentence"),
    [
        ("tdx", ["-d", "cpu"], "would log CPU state; say debuggable=on"),
        ("tdx", ["-d", "in_asm,cpu"], "would log private memory; say debuggable=on"),
        ("generic", ["-d", "in_asm"], "would log private memory; say debuggable=on"),
        (
            "tdx",
            ["-trace", "exec_tb"],
            "trace event exec_tb would show CPU state; say debuggable=on",
        ),
        ("tdx", ["-gdb", "tcp::0"], f"gdbserver: {REFUSED}; start the VM with debuggable=on"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_command_line_that_asks_for_it_is_refused(
    patched_qemu: Path, profile: str, words: list[str], sentence: str
) -> None:
    more = TDX if profile == "tdx" else []
    command = [*machine(patched_qemu, rom_dirs(), backend=RAM + profile), *more, *words]
    assert refusal(command).endswith(sentence)
