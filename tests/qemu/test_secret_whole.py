# SPDX-License-Identifier: GPL-2.0-or-later
"""Invariant 1 for whatever takes memory as a whole, or behind everybody's back.

The control is the same command against a machine whose memory is not restricted.
"""

import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.qemu.build import qemu_img, rom_dirs
from tests.qemu.bare import BareGuest
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.plain import PlainQemu, PlainQmp, machine, plain_qemu


pytestmark = pytest.mark.qemu

PROFILES = ["generic", "sw-protected", "tdx", "sev-snp"]
WHOLE_REFUSED = "restricted, the host may not read it as a whole"
MIGRATION_REFUSED = "restricted memory 'ram0' cannot be migrated or saved"


@dataclass(frozen=True, slots=True)
class WholePath:
    """A command that takes all of memory; ``ends`` is the event that says it has finished."""

    name: str
    command: str
    arguments: Mapping[str, object]
    refusal: str = WHOLE_REFUSED
    ends: str | None = None

    def bound(self, folder: Path) -> dict[str, object]:
        """Return the arguments for files in *folder*."""
        return {
            key: value.format(folder=folder) if isinstance(value, str) else value
            for key, value in self.arguments.items()
        }


def _dump(name: str, ends: str | None = None, **arguments: object) -> WholePath:
    file = {"protocol": "file:{folder}/taken", "paging": False}
    return WholePath(name, "dump-guest-memory", file | arguments, ends=ends)


def _hmp(line: str) -> WholePath:
    return WholePath(line, "human-monitor-command", {"command-line": line})


_SNAPSHOT = {"job-id": "job", "tag": "taken", "vmstate": "disk0", "devices": ["disk0"]}


PATHS = (
    _dump("dump"),
    _dump("dump of virtual memory", paging=True),
    _dump("dump in the background", "DUMP_COMPLETED", detach=True),
    _dump("dump, compressed", format="kdump-zlib"),
    WholePath("migrate", "migrate", {"uri": "file:{folder}/taken"}, MIGRATION_REFUSED, ends="STOP"),
    WholePath(
        "migrate to a command", "migrate", {"uri": "exec:cat >{folder}/taken"}, MIGRATION_REFUSED,
        ends="STOP",
    ),
    _hmp("savevm taken"),
    _hmp("loadvm taken"),
    _hmp("calc_dirty_rate -r 1"),
    WholePath("snapshot-save", "snapshot-save", _SNAPSHOT, ends="JOB_STATUS_CHANGE"),
    WholePath("snapshot-load", "snapshot-load", _SNAPSHOT),
    WholePath("calc-dirty-rate", "calc-dirty-rate", {"calc-time": 1}),
    WholePath("xen-save-devices-state", "xen-save-devices-state", {"filename": "{folder}/taken"}),
    WholePath("xen-load-devices-state", "xen-load-devices-state", {"filename": "{folder}/taken"}),
)  # fmt: skip
# A control would find no secret in the others: they compress, write no file, or leave RAM out.
READABLE = [
    path
    for path in PATHS
    if path.name in ("dump", "dump of virtual memory", "dump in the background", "savevm taken")
    or path.name.startswith("migrate")
]


def savable_disk(folder: Path) -> list[str]:
    """Make a disk that can hold a snapshot, so that nothing but memory is in the way."""
    disk = folder / "disk.qcow2"
    create = [str(qemu_img()), "create", "-q", "-f", "qcow2", str(disk), "1M"]
    subprocess.run(create, check=True, timeout=30)
    return ["-drive", f"if=none,id=disk,node-name=disk0,format=qcow2,file={disk}"]


def taken(folder: Path) -> bytes:
    """Return all that was written to the folder's files."""
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())


@pytest.mark.parametrize("coco", PROFILES)
@pytest.mark.parametrize("debuggable", [False, True], ids=["", "debuggable"])
async def test_refused_and_nothing_is_taken(
    boot: Boot, tmp_path: Path, coco: str, *, debuggable: bool
) -> None:
    secret = secrets.token_bytes(32)
    files = tmp_path / "files"
    files.mkdir()
    async with boot(coco=coco, debuggable=debuggable, extra=tuple(savable_disk(files))) as vm:
        vm.guest.write_bytes(page(0), secret)
        for path in PATHS:
            if debuggable and path.name == "dump":
                continue  # that is what such a VM is for: test_dump.py
            await vm.events()
            assert path.refusal in await said(vm, path, files), path.name
            events = [(e.kind, e.actor, e.device, e.verdict) for e in await vm.events()]
            denial = (Kind.HOST_FAULT, Actor.MONITOR, "monitor", Verdict.DENY)
            assert events == [denial], path.name
            assert secret not in taken(files), path.name
        assert vm.guest.read_bytes(page(0), 32) == secret


@pytest.mark.fault("L5")
@pytest.mark.parametrize("coco", PROFILES)
async def test_they_are_refused_in_the_mode_of_a_handover_too(
    boot: Boot, tmp_path: Path, coco: str
) -> None:
    async with boot(coco=coco, extra=tuple(savable_disk(tmp_path))) as vm:
        vm.guest.value("touch", page(0), 16)
        fds = [fd for fd in (vm.files.fds.private, vm.files.fds.shared) if fd is not None]
        before = [os.fstat(fd).st_blocks for fd in fds]
        await vm.qmp.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        for path in PATHS:
            if path.command != "migrate":
                assert WHOLE_REFUSED in await said(vm, path, tmp_path), path.name
        assert (await vm.qmp.execute("query-status"))["status"] == "running"
        assert [os.fstat(fd).st_blocks for fd in fds] == before
        vm.guest.value("touch", page(0), 16)


async def said(vm: BareMachine, path: WholePath, folder: Path) -> str:
    """Return QEMU's answer, whether it came as a value or as an error."""
    try:
        return str(await vm.qmp.execute(path.command, path.bound(folder)))
    except CommandRefused as error:
        return str(error)


def unrestricted(qemu: Path, elf: Path, folder: Path) -> list[str]:
    """Return the command for the same guest without restricted memory."""
    return [
        *machine(qemu, rom_dirs(), backend=None),
        "-kernel", str(elf), *savable_disk(folder),
    ]  # fmt: skip


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.name)
def test_control_the_same_command_takes_the_secret(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path, path: WholePath
) -> None:
    secret = secrets.token_bytes(32)
    files = tmp_path / "files"
    files.mkdir()
    command = unrestricted(patched_qemu, bare_elf, files)
    with plain_qemu(command, tmp_path) as qemu, qemu.qmp() as qmp:
        plant(qemu, secret)
        answer = qmp.command(path.command, **path.bound(files))
        if path.ends is not None:
            qmp.wait_event(path.ends)
        wait_until_migrated(qmp)
        qmp.command("quit")
        assert answer in ({}, "")
        assert qemu.wait() == 0
        assert secret in taken(files)


def plant(qemu: PlainQemu, secret: bytes) -> None:
    guest = BareGuest(qemu.agent)
    guest.wait_hello()
    guest.write_bytes(page(0), secret)


def wait_until_migrated(qmp: PlainQmp) -> None:
    while qmp.command("query-migrate").get("status", "completed") != "completed":
        pass


class TestVapicRom:
    """The patcher of Windows guests reads guest memory without asking anybody."""

    def test_it_is_switched_off(self, patched_qemu: Path, tmp_path: Path) -> None:
        with plain_qemu(machine(patched_qemu, rom_dirs()), tmp_path) as qemu, qemu.qmp() as qmp:
            assert vapic_properties(qmp) == [False]

    def test_control_it_is_on_without_restricted_memory(
        self, patched_qemu: Path, tmp_path: Path
    ) -> None:
        command = machine(patched_qemu, rom_dirs(), backend=None)
        with plain_qemu(command, tmp_path) as qemu, qemu.qmp() as qmp:
            assert vapic_properties(qmp) == [True]


def vapic_properties(qmp: PlainQmp) -> list[bool]:
    """Return the property of each local APIC."""
    return [qmp.command("qom-get", path=f"{cpu}/lapic", property="vapic") for cpu in cpus(qmp)]


def cpus(qmp: PlainQmp) -> Iterable[str]:
    answer: Sequence[Mapping[str, str]] = qmp.command("query-cpus-fast")
    return [cpu["qom-path"] for cpu in answer]
