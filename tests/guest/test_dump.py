# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of stock guests: taken while they run, and left by those that have ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.dump.contents import Reach
from cvmlab.dump.core_file import CoreFile
from cvmlab.dump.kdump_file import is_kdump, read_notes
from cvmlab.dump.notes import release_of
from cvmlab.dump.saved_states import load_states
from cvmlab.dump.take import DumpFormat, take_dump
from cvmlab.images.boot_files import resolve
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.records import ALLOWED_ACCESS, is_event
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest.program import cvmlab


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

PROFILES = ["generic", "tdx", "sev-snp"]
DEADLINE_S = 180
# It goes on when a line is typed.
WAITING = "echo ready; head -n 1 </dev/console >/dev/null; echo done"
IN_PRIVATE_MEMORY = b"OSRELEASE="  # the kernel's VMCOREINFO


@asynccontextmanager
async def waiting(coco: str, **options: Any) -> AsyncIterator[Vm]:
    """Boot a guest, wait until it waits for a line, and see it end well after the block."""
    guest = resolve("debian", exec_command=WAITING)
    vm = Vm(
        kernel=guest.kernel, initrd=guest.initrd, append=guest.append, coco=coco, memory="512M",
        cpus=2, **options,
    )  # fmt: skip
    async with vm:
        await vm.wait_for("ready", timeout_s=DEADLINE_S)
        yield vm
        await vm.send("\n")
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        assert (outcome.end, outcome.guest_status, outcome.problem) == (End.POWERED_OFF, 0, None)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contains(path: Path, data: bytes) -> bool:
    return data in path.read_bytes()


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_running_guest_is_dumped_and_goes_on(tmp_path: Path, coco: str) -> None:
    file = tmp_path / "core"
    async with waiting(coco, debuggable=True) as vm:
        table = vm.pages.table.copy()
        taken = await take_dump(vm, file, form=DumpFormat.ELF)
        with CoreFile(file) as core:
            assert release_of(core.notes) == vm.kernel_release
            assert sum(note.name == b"CORE" for note in core.notes) == 2
            assert core.states.table.shape == table.shape
        assert load_states(file).slots == vm.pages.slots
        vm.journal.drain()
        allowed = is_event(JournalFile(vm.run.events).records, ALLOWED_ACCESS)
        assert int(allowed.sum()) == len(vm.pages.slots)
    assert taken.standstill_s > 0
    assert contains(file, IN_PRIVATE_MEMORY)


async def test_a_dump_has_no_private_memory_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with waiting("tdx") as vm:
        with pytest.raises(ConfigError, match="private memory cannot be dumped") as caught:
            await take_dump(vm, tmp_path / "core", form=DumpFormat.ELF)
        assert "--debuggable" in str(caught.value.hint)
        assert names_in(tmp_path) == []
        shared = tmp_path / "shared"
        await take_dump(vm, shared, form=DumpFormat.ELF, reach=Reach.SHARED)
        counts = vm.pages.counts()
    assert not contains(shared, IN_PRIVATE_MEMORY)
    with CoreFile(shared) as core:
        sizes = [extent.size for extent in core.content(Reach.ALL).extents]
        assert sum(sizes) == counts.shared * 4096
        assert core.notes[:-1] == []  # nothing of CPUs or the kernel


async def test_a_vm_without_restricted_memory_is_not_dumped(tmp_path: Path) -> None:
    async with waiting("off") as vm:
        with pytest.raises(ConfigError, match="this VM has no restricted memory"):
            await take_dump(vm, tmp_path / "core", form=DumpFormat.ELF)


def test_the_command_dumps_a_vm_of_another_terminal(tmp_path: Path) -> None:
    async def work() -> None:
        async with waiting("tdx", debuggable=True, name="dumped"):
            for words, code, said in (
                (["dump", "dumped", str(tmp_path / "kdump"), "--format", "kdump"], 0, "all memory"),
                (["dump", "dumped", str(tmp_path / "part"), "--private", "no"], 0, "shared memory"),
                (
                    ["dump", "dumped", str(tmp_path / "x"), "--format", "zip"],
                    85,
                    "there is no 'zip'",
                ),
                (["dump", "dumped", str(tmp_path / "no" / "x")], 85, "there is no folder"),
                (["dump", "dumped", str(tmp_path)], 85, "is not a file"),
                (["dump", "gone", str(tmp_path / "x")], 85, "no VM 'gone' is running"),
            ):
                done = await asyncio.to_thread(cvmlab, *words)
                assert (done.code, said in done.out + done.err) == (code, True), (words, done)

    asyncio.run(work())
    assert is_kdump(tmp_path / "kdump")
    assert release_of(read_notes(tmp_path / "kdump"))
    assert [name for name in names_in(tmp_path) if "x" in name] == []


def test_a_run_that_is_kept_leaves_its_memory(tmp_path: Path) -> None:
    run, shared = tmp_path / "run", tmp_path / "shared"
    boot = ["boot", "--coco", "sev-snp", "--exec", "true", "--run-dir", str(run)]
    assert cvmlab(*boot, "--debuggable").code == 0
    with CoreFile(run / "memory.core") as core:
        assert release_of(core.notes)
    assert cvmlab("dump", str(run), str(shared), "--private", "no").code == 0
    assert contains(run / "memory.core", IN_PRIVATE_MEMORY)
    assert not contains(shared, IN_PRIVATE_MEMORY)
    assert cvmlab(*boot).code == 0
    assert not (run / "memory.core").exists()
