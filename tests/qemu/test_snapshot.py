# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM is saved and restored, or forked: the same content, states, counters and journal, in its own
files."""

import gc
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cvmlab.base.errors import CommandRefused, ConfigError
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.accounting import Books, differences
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import profiles
from cvmlab.snapshots.manifest import MANIFEST, PRIVATE, STATE
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.snapshots.store import listed, remove
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.qemu.conftest import CHURN_AREA
from tests.qemu.test_upgrade import finish, passes


pytestmark = [
    pytest.mark.qemu,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("state_home"),
]
MakeVm = Callable[..., Vm]
PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]


def look(vm: Vm) -> tuple[Any, ...]:
    """Return all that a copy has, too: table, counters, storage of both files."""
    return (
        vm.pages.table.tobytes(), vm.pages.counters(), vm.pages.counts(),
        vm.memory_files.storage_bytes(),
    )  # fmt: skip


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "state"]


def in_memory(folder: Path) -> bool:
    return folder.parent == Path("/dev/shm") and folder.exists()


async def books_agree(vm: Vm) -> None:
    """The journal, all of it, leads to the table, the counters and the storage.

    They are read one after the other, so no CPU may run meanwhile.
    """
    runs = (await vm.command("query-status"))["status"] == "running"
    if runs:
        await vm.pause()
    info = await vm.query()
    vm.journal.drain()
    books = Books(
        records=JournalFile(vm.run.events).records, states=vm.pages.table, pages=vm.pages.counts(),
        counters=vm.pages.counters(), storage=vm.memory_files.storage_bytes(),
        slots=info.memory_slots, rules=profiles()[vm.spec.coco], layout=vm.spec.memory_layout,
    )  # fmt: skip
    assert differences(books) == []
    if runs:
        await vm.cont()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("coco", PROFILES)
async def test_a_restored_guest_goes_on_where_it_was_saved(
    churning: MakeVm, coco: str, *, compress: bool
) -> None:
    async with churning(coco=coco) as vm:
        await passes(vm)
        await vm.pause()
        was = look(vm)
        saved = await vm.save("here", compress=compress)
        assert look(vm) == was
        text = vm.console.text
        vm.journal.drain()
        journal = JournalFile(vm.run.events).written.tobytes()
        await vm.cont()
        await passes(vm)
        await finish(vm)
    async with Vm.restore("here", qemu=vm.setting.qemu) as again:
        assert look(again) == was
        assert again.console.text == text
        records = JournalFile(again.run.events).written
        assert records.tobytes() == journal
        assert (int(records[-1]["seq"]), Kind(int(records[-1]["kind"]))) == (
            saved.record, Kind.SNAPSHOT,
        )  # fmt: skip
        await books_agree(again)
        assert (await again.query()).profile == coco
        await again.cont()
        await passes(again)
        await books_agree(again)
        await finish(again)


@pytest.mark.parametrize("coco", PROFILES)
async def test_forks_go_their_own_ways(churning: MakeVm, coco: str) -> None:
    async with churning(coco=coco) as vm:
        await passes(vm)
        first, second = await vm.fork(2)
        await passes(vm)
        async with first, second:
            await passes(first)
            await passes(second)
            assert (
                len({os.fstat(one.memory_files.fds.private).st_ino for one in (vm, first, second)})
                == 3
            )
            assert first.name != second.name
            await finish(first)
            await passes(second)
            await finish(second)
        await passes(vm)
        await finish(vm)


async def test_a_fork_of_a_fork_and_a_saved_fork(churning: MakeVm, tmp_path: Path) -> None:
    async with churning(coco="tdx") as vm:
        await passes(vm)
        (child,) = await vm.fork()
        async with child:
            await passes(child)
            (grandchild,) = await child.fork()
            await child.save(tmp_path / "child")
        async with grandchild:
            await passes(grandchild)
            await finish(grandchild)
        async with Vm.restore(tmp_path / "child", qemu=vm.setting.qemu) as again:
            await passes(again)
            await finish(again)
        await finish(vm)


async def test_forks_that_nobody_enters_leave_nothing(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        forks = await vm.fork(2)
        origin = forks[0].origin
        assert origin is not None
        folder = origin.path
        del origin
        assert in_memory(folder)
        del forks
        gc.collect()
        assert not in_memory(folder)
        await finish(vm)


async def test_a_restored_vm_takes_conversions_checkpoints_upgrades_and_resets(
    churning: MakeVm,
) -> None:
    async with churning(coco="sw-protected") as vm:
        await passes(vm)
        await vm.save("here")
        await finish(vm)
    async with Vm.restore("here", qemu=vm.setting.qemu) as again:
        await passes(again)
        kept = await again.checkpoint()
        assert await again.convert("100M+4K", "shared") == 1
        await again.rewind(kept)
        await passes(again)
        await books_agree(again)
        await again.upgrade()
        await passes(again)
        await books_agree(again)
        await finish(again)


async def test_a_saved_pause_is_a_pause(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        await vm.pause()
        await vm.save("still")
        await vm.cont()
        await finish(vm)
    async with Vm.restore("still", qemu=vm.setting.qemu) as again:
        assert (await again.command("query-status"))["status"] == "paused"
        await again.cont()
        await passes(again)
        await finish(again)
    async with Vm.restore("still", qemu=vm.setting.qemu, paused=False) as again:
        await passes(again)
        await finish(again)


class TestBadSnapshots:
    @pytest.fixture
    async def saved(self, churning: MakeVm, tmp_path: Path) -> Path:
        async with churning() as vm:
            await passes(vm)
            await vm.save(tmp_path / "saved")
            await finish(vm)
        return tmp_path / "saved"

    async def refused(self, saved: Path, qemu: Path, match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            async with Vm.restore(saved, qemu=qemu):
                pass

    @pytest.mark.parametrize(
        "name", [PRIVATE, STATE, "events.bin", "heard", "kernel", "table", "ring"]
    )
    async def test_a_flipped_bit_names_the_file(
        self, saved: Path, patched_qemu: Path, name: str
    ) -> None:
        with (saved / name).open("r+b") as file:
            at = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
        await self.refused(saved, patched_qemu, f"damaged: {name}: its digest is")

    async def test_a_file_cut_short_or_gone(self, saved: Path, patched_qemu: Path) -> None:
        os.truncate(saved / STATE, 1000)
        await self.refused(saved, patched_qemu, "damaged: state")
        (saved / STATE).unlink()
        await self.refused(saved, patched_qemu, "damaged: state: No such file")

    async def test_another_version(self, saved: Path, patched_qemu: Path) -> None:
        manifest = saved / MANIFEST
        text = manifest.read_text()
        manifest.write_text(text.replace('"format": 2', '"format": 1'))
        await self.refused(saved, patched_qemu, "of format 1, not 2")
        manifest.write_text(text[:100])
        await self.refused(saved, patched_qemu, "no manifest of a snapshot")

    async def test_another_qemu(self, saved: Path) -> None:
        await self.refused(saved, Path("/bin/true"), "saved by another QEMU")

    async def test_no_snapshot(self, tmp_path: Path, patched_qemu: Path) -> None:
        await self.refused(tmp_path / "none", patched_qemu, "is no snapshot")

    async def test_a_restored_vm_has_no_options_of_a_machine(self, saved: Path) -> None:
        with pytest.raises(ConfigError, match="has no option 'memory'"):
            Vm.restore(saved, memory="1G")

    async def test_what_the_state_says_is_checked_by_qemu_as_well(
        self, saved: Path, patched_qemu: Path
    ) -> None:
        """As if the digests had been made to fit."""
        for cut in (0, 4, 20, 100, 4000):
            origin = SnapshotFolder.open(saved)
            origin.is_to_be_verified = False
            broken = saved.with_name(f"broken{cut}")
            shutil.copytree(saved, broken)
            os.truncate(broken / STATE, cut)
            origin.path = broken
            with pytest.raises(ConfigError, match=r"does not fit this VM: .*(version|cut short)"):
                async with Vm.restore(origin, qemu=patched_qemu):
                    pass


async def test_a_name_is_taken_once_and_removed(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        await vm.save("one")
        with pytest.raises(ConfigError, match="there is a snapshot one already"):
            await vm.save("one")
        with pytest.raises(ConfigError, match="not a name for a snapshot"):
            await vm.save("one two")
        assert [path.name for path in listed()] == ["one"]
        remove("one")
        assert list(listed()) == []
        with pytest.raises(ConfigError, match="there is no snapshot one"):
            remove("one")
        await finish(vm)


async def test_a_full_disk_leaves_the_guest_running_and_nothing_behind(
    churning: MakeVm, tmp_path: Path
) -> None:
    async with churning() as vm:
        await passes(vm)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, limits[1]))
        try:
            with pytest.raises(ConfigError, match="cannot be written: File too large"):
                await vm.save(tmp_path / "one")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert names(tmp_path) == []
        await passes(vm)
        await finish(vm)


async def test_a_fork_that_does_not_fit_leaves_the_guest_running_and_nothing_behind(
    churning: MakeVm,
) -> None:
    mine = f"cvmlab-fork-{os.getpid()}-*"
    async with churning() as vm:
        await passes(vm)
        before = set(Path("/dev/shm").glob(mine))  # noqa: ASYNC240 - in memory
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, limits[1]))
        try:
            with pytest.raises(ConfigError, match="cannot be written: File too large"):
                await vm.fork()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert set(Path("/dev/shm").glob(mine)) == before  # noqa: ASYNC240
        await passes(vm)
        await finish(vm)


async def test_a_guest_without_restricted_memory_is_not_saved(churning: MakeVm) -> None:
    async with churning(coco="off") as vm:
        await passes(vm)
        with pytest.raises(ConfigError, match="without restricted memory"):
            await vm.save("one")
        await finish(vm)


async def test_only_a_waiting_qemu_takes_a_guest(churning: MakeVm, tmp_path: Path) -> None:
    async with churning() as vm:
        await passes(vm)
        arguments = {"id": BACKEND_ID, "file": str(tmp_path / "state")}
        with pytest.raises(CommandRefused, match="does not wait for a saved guest"):
            await vm.command("restricted-memory-restore", arguments)
        with pytest.raises(CommandRefused, match="the VM runs: stop it first"):
            await vm.command("restricted-memory-save", arguments)
        await passes(vm)
        await finish(vm)


async def test_writes_are_followed_for_a_copy_and_not_while_it_goes_back(
    churning: MakeVm, tmp_path: Path
) -> None:
    async with churning(coco="sw-protected") as vm:
        await passes(vm)
        file = {"id": BACKEND_ID, "file": str(tmp_path / "writes")}
        with pytest.raises(CommandRefused, match="writes are not followed"):
            await vm.command("restricted-memory-take-writes", file)
        kept = await vm.checkpoint()
        follow = {"id": BACKEND_ID, "on": True}
        await vm.command("restricted-memory-follow-writes", follow)
        with pytest.raises(CommandRefused, match="the VM's memory is being copied"):
            await vm.rewind(kept)
        said = vm.console.text.count("right\n")  # some of it may not have been waited for yet
        while vm.console.text.count("right\n") < said + 2:
            await passes(vm, 1)
        await vm.pause()
        await vm.command("restricted-memory-take-writes", file)
        first = pages_of(tmp_path / "writes")
        assert CHURN_AREA // PAGE_SIZE in first
        await vm.command("restricted-memory-take-writes", file)
        assert pages_of(tmp_path / "writes") == set()
        await vm.convert("100M+4K", "shared")
        await vm.command("restricted-memory-take-writes", file)
        assert (100 << 20) // PAGE_SIZE in pages_of(tmp_path / "writes")
        await vm.command("restricted-memory-follow-writes", follow | {"on": False})
        # The checkpoint has learned of all that, too.
        assert (await vm.rewind(kept)).pages >= len(first)
        await passes(vm)
        await books_agree(vm)
        await finish(vm)


def pages_of(file: Path) -> set[int]:
    """Return the pages of the first memory file that were written."""
    bits = np.unpackbits(np.fromfile(file, np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


async def test_an_ended_vm_is_not_saved(churning: MakeVm) -> None:
    async with churning() as vm:
        await passes(vm)
        await finish(vm)
        assert vm.outcome is not None
        assert vm.outcome.end is End.POWERED_OFF
        with pytest.raises(Exception, match="has ended"):
            await vm.save("late")
