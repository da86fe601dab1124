# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps by QMP: what is in them, who may have them, and that the journal says so."""

import base64
import io
import secrets
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from cvmlab.base.errors import CommandRefused
from cvmlab.dump.notes import Note, split_notes
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Verdict
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]
HIDING = ["tdx", "sev-es", "sev-snp"]
REFUSED = "the machine's memory is restricted, the host may not read it as a whole"
COREINFO = Note(b"VMCOREINFO", 0, b"OSRELEASE=6.12.0-bare\nPAGESIZE=4096\n".ljust(64, b"\n"))


async def ask(vm: BareMachine, *, private: bool) -> tuple[int, list[Note]]:
    """Run restricted-memory-dump; return machine and notes."""
    answer = await vm.qmp.execute("restricted-memory-dump", {"id": "ram0", "private": private})
    return answer["machine"], list(split_notes(base64.b64decode(answer["notes"])))


async def dumped(vm: BareMachine, file: Path, **arguments: object) -> bytes:
    """Run dump-guest-memory; return the file."""
    more = {"paging": False, "protocol": f"file:{file}", **arguments}
    await vm.qmp.execute("dump-guest-memory", more)
    return content_of(file)


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def in_core(data: bytes, gpa: int, size: int) -> bytes:
    """Return what a core file has at a guest physical address."""
    for part in ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD"):
        if part["p_paddr"] <= gpa < part["p_paddr"] + part["p_filesz"]:
            at = part["p_offset"] + gpa - part["p_paddr"]
            return data[at : at + size]
    return b""


def notes_in(data: bytes) -> list[Note]:
    (segment,) = ELFFile(io.BytesIO(data)).iter_segments("PT_NOTE")
    return list(split_notes(segment.data()))


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_dump_has_both_sides_of_memory(boot: Boot, tmp_path: Path, coco: str) -> None:
    mine, hosts = secrets.token_bytes(32), secrets.token_bytes(32)
    async with boot(coco=coco, debuggable=True) as vm:
        vm.guest.write_bytes(page(0), mine)
        await vm.convert("shared", page(1), content="discard")
        vm.write_shared(page(1), hosts)
        await vm.events()
        data = await dumped(vm, tmp_path / "core")
        events = [(e.kind, e.actor, e.verdict, e.gpa) for e in await vm.events()]
        access = (Kind.HOST_FAULT, Actor.MONITOR, Verdict.ALLOW)
        assert events == [(*access, 0), (*access, 1 << 20)]
        assert in_core(data, page(0), 32) == mine
        assert in_core(data, page(1), 32) == hosts
        assert in_core(data, page(2), PAGE_SIZE) == bytes(PAGE_SIZE)
        names = [(note.name, note.type) for note in notes_in(data)]
        assert names == [(b"CORE", 1), (b"QEMU", 0)]
        assert vm.guest.read_bytes(page(0), 32) == mine


async def test_a_part_of_memory_is_dumped_to_the_byte(boot: Boot, tmp_path: Path) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        vm.guest.write_bytes(page(0), bytes(range(32)))
        data = await dumped(vm, tmp_path / "core", begin=page(0) + 3, length=5)
        assert data.endswith(bytes(range(3, 8)))
        assert in_core(data, page(0) + 3, 9) == bytes(range(3, 8))
        with pytest.raises(CommandRefused, match="no RAM from 0x10000000000 on"):
            await dumped(vm, tmp_path / "core", begin=1 << 40, length=1)


@pytest.mark.parametrize("more", [{"paging": True}, {"detach": True}, {"format": "kdump-zlib"}])
async def test_what_is_no_plain_core_is_refused_and_journaled(
    boot: Boot, tmp_path: Path, more: dict[str, object]
) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        await vm.events()
        with pytest.raises(CommandRefused, match=f"more than a plain ELF core: {REFUSED}"):
            await dumped(vm, tmp_path / "core", **more)
        assert [(e.kind, e.verdict) for e in await vm.events()] == [(Kind.HOST_FAULT, Verdict.DENY)]


async def test_a_dump_to_a_full_disk_is_an_error(boot: Boot, tmp_path: Path) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        vm.guest.write_bytes(page(0), b"12345678")
        with pytest.raises(CommandRefused, match="cannot be written: No space left on device"):
            await dumped(vm, Path("/dev/full"))
        assert vm.guest.read_bytes(page(0), 8) == b"12345678"


@pytest.mark.parametrize("coco", PROFILES)
async def test_the_notes_are_cpus_and_vmcoreinfo(boot: Boot, coco: str) -> None:
    async with boot(coco=coco, debuggable=True) as vm:
        vm.guest.write_bytes(page(3), COREINFO.encode())
        await vm.events()
        machine, notes = await ask(vm, private=True)
        assert machine == 62
        assert [note.name for note in notes] == [b"CORE", b"QEMU", b"VMCOREINFO"]
        assert notes[-1] == COREINFO
        assert [(e.verdict, e.gpa) for e in await vm.events()] == [
            (Verdict.ALLOW, 0),
            (Verdict.ALLOW, 1 << 20),
        ]


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("another note", Note(b"VMCOREINFX", 0, COREINFO.content)),
        ("no release", Note(b"VMCOREINFO", 0, b"X" + COREINFO.content)),
        ("too long", Note(b"VMCOREINFO", 0, COREINFO.content.ljust(PAGE_SIZE + 8, b"\n"))),
    ],
)
async def test_what_only_looks_like_vmcoreinfo_is_left_out(
    boot: Boot, name: str, spoilt: Note
) -> None:
    async with boot(coco="tdx", debuggable=True) as vm:
        data = spoilt.encode()[:256]
        vm.guest.write_bytes(page(3), data.ljust(-(-len(data) // 8) * 8, b"\0"))
        _, notes = await ask(vm, private=True)
        assert [note.name for note in notes] == [b"CORE", b"QEMU"], name


@pytest.mark.parametrize("coco", PROFILES)
async def test_control_another_vm_refuses_private_memory(boot: Boot, coco: str) -> None:
    async with boot(coco=coco) as vm:
        vm.guest.write_bytes(page(3), COREINFO.encode())
        await vm.events()
        with pytest.raises(CommandRefused, match=REFUSED):
            await ask(vm, private=True)
        denied = (Kind.HOST_FAULT, Actor.MONITOR, Verdict.DENY)
        assert [(e.kind, e.actor, e.verdict) for e in await vm.events()] == [denied]


@pytest.mark.parametrize("coco", PROFILES)
async def test_of_another_vm_shared_memory_may_be_dumped(boot: Boot, coco: str) -> None:
    """Its CPUs are described only where the host may see them, and VMCOREINFO is private memory."""
    async with boot(coco=coco) as vm:
        vm.guest.write_bytes(page(3), COREINFO.encode())
        await vm.events()
        _, notes = await ask(vm, private=False)
        names = [note.name for note in notes]
        assert names == ([] if coco in HIDING else [b"CORE", b"QEMU"])
        assert await vm.events() == []
