# SPDX-License-Identifier: GPL-2.0-or-later
"""Invariant 1: a secret in private memory comes out by no path that is not the guest's CPU.

Each path gets a page and a secret of its own.  What a path found is told from what it did not find
by running the same code where it must find it: on shared pages, in a debuggable VM, under policy
share, and (for paths that take memory as a whole) on a VM without restricted memory.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.memory.states import PageState
from tests.qemu import dma
from tests.qemu.bare_machine import Event, page
from tests.qemu.conftest import Boot
from tests.qemu.gdbremote import GdbRemote
from tests.qemu.hostpaths import (
    DEVICE_PATHS,
    HIDING,
    OPERATOR_PATHS,
    PATHS,
    SECRET_PAGES,
    HostPath,
    Lab,
    open_lab,
    paths_of,
)
from tests.qemu.tdx import become_td


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected", "tdx", "sev-snp"]
BELOW_16_MIB = 0x800000
IMAGE = range(0x100000, 0x200000)  # of the guest, with its page tables


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one attempt: did the secret come out, and what does the journal say."""

    leaked: bool
    faults: tuple[Event, ...]
    converted: tuple[Event, ...]
    state: PageState


async def plant(lab: Lab, paths: Sequence[HostPath]) -> dict[str, tuple[int, bytes]]:
    """Give each path a private page with a secret in it."""
    planted = {}
    for number, path in enumerate(paths):
        gpa, secret = page(SECRET_PAGES + number), secrets.token_bytes(32)
        lab.guest.write_bytes(gpa, secret)
        planted[path.name] = gpa, secret
    return planted


async def attempt_all(
    lab: Lab, paths: Sequence[HostPath], planted: Mapping[str, tuple[int, bytes]]
) -> dict[str, Found]:
    """Try every path; what happened elsewhere than in its page counts as well."""
    results = {}
    await lab.vm.events()
    for path in paths:
        gpa, secret = planted[path.name]
        got = await path.attempt(lab, gpa)
        events = await lab.vm.events()
        results[path.name] = Found(
            leaked=contains(got, secret),
            faults=tuple(e for e in events if e.kind is Kind.HOST_FAULT),
            converted=tuple(e for e in events if e.kind is Kind.CONVERT),
            state=lab.vm.state(gpa),
        )
        assert lab.guest.read_bytes(gpa, 32) == secret, f"{path.name} changed private memory"
    return results


def contains(data: bytes, secret: bytes) -> bool:
    """Is any half of the secret in there?"""
    half = len(secret) // 2
    return secret[:half] in data or secret[half:] in data


def assert_judged(
    results: Mapping[str, Found],
    paths: Sequence[HostPath],
    planted: Mapping[str, tuple[int, bytes]],
    verdict: Verdict,
) -> None:
    """Each path is in the journal once, under its own name, for the page that it met first."""
    walked = set()
    for path in paths:
        gpa, _ = planted[path.name]
        met_tables = path.walks and verdict is not Verdict.ALLOW
        if met_tables and path.actor in walked:  # the same page as before: no new fault
            assert results[path.name].faults == (), path.name
            continue
        (fault,) = results[path.name].faults
        said = (fault.actor, fault.device, fault.verdict, fault.write)
        assert said == (path.actor, path.device, verdict, False), path.name
        assert fault.gpa // PAGE_SIZE * PAGE_SIZE in (IMAGE if met_tables else (gpa,)), path.name
        if met_tables:
            walked.add(path.actor)


@pytest.mark.parametrize("coco", PROFILES)
class TestPrivatePages:
    async def test_no_path_gets_the_secret(self, boot: Boot, tmp_path: Path, coco: str) -> None:
        async with open_lab(boot, tmp_path, coco=coco) as lab:
            paths = paths_of(lab)
            planted = await plant(lab, paths)
            results = await attempt_all(lab, paths, planted)
            assert [name for name, found in results.items() if found.leaked] == []
            assert_judged(results, paths, planted, Verdict.DENY)
            assert {found.state for found in results.values()} == {PageState.PRIVATE}
            assert_not_in_files(lab, [secret for _, secret in planted.values()])

    async def test_zero_policy_gives_zeros(self, boot: Boot, tmp_path: Path, coco: str) -> None:
        async with open_lab(boot, tmp_path, coco=coco, on_host_access="zero") as lab:
            paths = paths_of(lab)
            planted = await plant(lab, paths)
            results = await attempt_all(lab, paths, planted)
            assert [name for name, found in results.items() if found.leaked] == []
            assert_judged(results, paths, planted, Verdict.ZERO)

    async def test_a_debugger_or_monitor_cannot_write(
        self, boot: Boot, tmp_path: Path, coco: str
    ) -> None:
        if coco in HIDING:
            return  # it has no debugger
        async with open_lab(boot, tmp_path, coco=coco) as lab:
            lab.guest.write_bytes(page(SECRET_PAGES), bytes(range(32)))
            await lab.vm.events()
            with GdbRemote(tmp_path / "gdb") as gdb:
                assert gdb.write(page(SECRET_PAGES), b"\xff" * 8).startswith("E")
                gdb.use_physical_addresses()
                assert gdb.write(page(SECRET_PAGES) + 8, b"\xff" * 8).startswith("E")
            faults = {(e.actor, e.write) for e in await lab.vm.events()}
            # The first ends at the guest's page tables.
            assert faults == {(Actor.GDB, False), (Actor.GDB, True)}
            assert lab.guest.read_bytes(page(SECRET_PAGES), 32) == bytes(range(32))


def assert_not_in_files(lab: Lab, planted: Sequence[bytes]) -> None:
    """The shared file has no secret; the private one has all, so the scan does find them."""
    fds = lab.vm.files.fds
    private = os.pread(fds.private, lab.vm.spec.memory_bytes, 0)
    assert all(contains(private, secret) for secret in planted)
    if fds.shared is not None:
        shared = os.pread(fds.shared, lab.vm.spec.memory_bytes, 0)
        assert not any(contains(shared, secret) for secret in planted)


class TestControls:
    """The same attempts find the secret where they must: they are real."""

    @pytest.mark.parametrize("coco", PROFILES)
    async def test_on_shared_pages(self, boot: Boot, tmp_path: Path, coco: str) -> None:
        async with open_lab(boot, tmp_path, coco=coco) as lab:
            paths = paths_of(lab)
            planted = await plant(lab, paths)
            await lab.vm.convert("shared", *(gpa for gpa, _ in planted.values()))
            for gpa, secret in planted.values():
                lab.guest.write_bytes(gpa, secret)
            results = await attempt_all(lab, paths, planted)
            # Page tables are private all the same.
            ended = [path.name for path in paths if path.walks]
            assert [name for name, found in results.items() if not found.leaked] == ended
            assert {name for name, found in results.items() if found.faults} <= set(ended)

    @pytest.mark.parametrize("coco", PROFILES)
    async def test_in_a_debuggable_vm(self, boot: Boot, tmp_path: Path, coco: str) -> None:
        async with open_lab(boot, tmp_path, coco=coco, debuggable=True) as lab:
            planted = await plant(lab, PATHS)
            results = await attempt_all(lab, PATHS, planted)
            leaked = {name for name, found in results.items() if found.leaked}
            assert leaked == {path.name for path in OPERATOR_PATHS}
            assert_judged(results, OPERATOR_PATHS, planted, Verdict.ALLOW)
            assert_judged(results, DEVICE_PATHS, planted, Verdict.DENY)
            assert (await lab.vm.counters())["host-faults"] == len(DEVICE_PATHS)

    async def test_under_policy_share(self, boot: Boot, tmp_path: Path) -> None:
        async with open_lab(boot, tmp_path, coco="generic", on_host_access="share") as lab:
            planted = await plant(lab, PATHS)
            results = await attempt_all(lab, PATHS, planted)
            assert [name for name, found in results.items() if not found.leaked] == []
            for path in PATHS:
                *tables, event = results[path.name].converted
                assert all(path.walks and table.gpa in IMAGE for table in tables)
                assert (event.actor, event.device) == (path.actor, path.device)
                assert event.gpa == planted[path.name][0]
                assert results[path.name].state is PageState.SHARED


@pytest.mark.parametrize("coco", PROFILES)
class TestIsaDma:
    """A device without a bus has no name: the journal says "host"."""

    async def test_the_floppy_gets_zeros(self, boot: Boot, tmp_path: Path, coco: str) -> None:
        async with boot(coco=coco, **floppy(tmp_path)) as vm:
            secret = secrets.token_bytes(32)
            vm.guest.write_bytes(BELOW_16_MIB, secret)
            await vm.events()
            dma.Floppy(vm.guest).write_sector(BELOW_16_MIB)
            assert not contains((tmp_path / "floppy").read_bytes(), secret)
            (fault,) = [e for e in await vm.events() if e.kind is Kind.HOST_FAULT]
            assert (fault.actor, fault.device) == (Actor.HOST, "host")
            assert (fault.gpa, fault.write) == (BELOW_16_MIB, False)

    async def test_control_it_writes_a_shared_page(
        self, boot: Boot, tmp_path: Path, coco: str
    ) -> None:
        async with boot(coco=coco, **floppy(tmp_path)) as vm:
            secret = secrets.token_bytes(32)
            if coco == "tdx":
                become_td(vm)
            elif coco == "sev-snp":
                vm.reach_shared(0)
            await vm.convert("shared", BELOW_16_MIB)
            vm.guest.write_bytes(BELOW_16_MIB, secret)
            dma.Floppy(vm.guest).write_sector(BELOW_16_MIB)
            assert contains((tmp_path / "floppy").read_bytes(), secret)


def floppy(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return options for a disk in a floppy drive."""
    image = folder / "floppy"
    image.write_bytes(bytes(1440 << 10))
    drive = ("-drive", f"if=none,id=floppy,format=raw,file={image}")
    return {"devices": ("isa-fdc,id=fdc", "floppy,drive=floppy,bus=fdc.0"), "extra": drive}
