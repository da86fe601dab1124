# SPDX-License-Identifier: GPL-2.0-or-later
"""Real drivers of a Debian kernel and devices that touch private memory, under each policy."""

import asyncio
import hashlib
from collections.abc import AsyncIterable
from pathlib import Path

import pytest

from cvmlab.base.errors import DeadlineExceeded
from cvmlab.images.symbols import Symbols
from cvmlab.memory.journal import JournalFile, Records
from cvmlab.memory.records import Actor, Kind, Phase, Verdict
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest import devices
from tests.guest.devices import (
    AHCI,
    KICKED_BY_CPU,
    NIC,
    NVME,
    VIRTIO,
    VIRTIO_PLATFORM,
    DiskDevice,
    Journaled,
    disk_script,
    guest,
    host_server,
    net_script,
    said,
    written,
)


pytestmark = [pytest.mark.guest, pytest.mark.timeout(150)]

DEADLINE_S = 120
# Long enough after its first fault for a driver to give up or be seen hanging.
DENIED_S = 4
NET = (
    "-netdev",
    f"user,id={NIC}-user",
    "-device",
    f"virtio-net-pci,id={NIC},netdev={NIC}-user,romfile=",
)


@pytest.mark.parametrize(
    "disks", [(VIRTIO, VIRTIO_PLATFORM, NVME), (AHCI,)], ids=["virtio, nvme, net", "ahci"]
)
async def test_under_share_all_work_and_each_page_is_attributed(
    disks: tuple[DiskDevice, ...], tmp_path: Path
) -> None:
    extra = [word for disk in disks for word in disk.drive(tmp_path)]
    before = {disk.actor: hashlib.sha256(disk.image(tmp_path).read_bytes()) for disk in disks}
    async with host_server() as server:
        scripts = [disk_script(disk) for disk in disks]
        if AHCI not in disks:
            scripts.append(net_script(server))
            extra += NET
        words = tuple(word for disk in disks for word in disk.devices)
        options = {"on_host_access": "share", "devices": words, "extra": tuple(extra)}
        async with guest("; ".join(scripts), tmp_path, **options) as vm:
            outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
            done = Journaled.of(vm, vm.run.events)
        assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0)
        for disk in disks:
            assert said(done.console, disk.actor, "has") == before[disk.actor].hexdigest()
            assert said(done.console, disk.actor, "wrote") == written(disk, tmp_path)
        if AHCI not in disks:
            assert said(done.console, "net", "has") == server.sent
            assert said(done.console, "net", "wrote") == server.received
    assert_attributed(done, {disk.actor for disk in disks})


def assert_attributed(done: Journaled, expected: set[str]) -> None:
    """Counters, journal and table agree, and every device that was used is named."""
    by_counter = {a.id: a.converted for a in done.info.actors if a.converted}
    assert dict(done.converted) == by_counter
    assert expected <= by_counter.keys()
    assert sum(by_counter.values()) == done.info.counters["to-shared"] == done.info.pages.shared
    assert done.info.counters["host-faults"] == 0
    assert done.info.counters["events-dropped"] == 0
    # A disk goes through the page cache, a page of memory for a page of disk; the next disk may be
    # given the same pages, which are shared by then.
    assert max(by_counter.values()) >= devices.DISK_BYTES // 4096


@pytest.fixture(scope="module")
def symbols() -> Symbols:
    return devices.kernel_symbols()


@pytest.mark.parametrize(
    ("disk", "coco"),
    [
        (VIRTIO, "generic"),
        (VIRTIO_PLATFORM, "generic"),
        (NVME, "generic"),
        (VIRTIO, "sw-protected"),
    ],
    ids=lambda value: getattr(value, "actor", value),
)
async def test_under_deny_a_disk_fails_and_the_journal_says_why(
    disk: DiskDevice, coco: str, tmp_path: Path, symbols: Symbols
) -> None:
    script = f"sha256sum /dev/{disk.node}"
    words = tuple(kicked_by_cpu(word) for word in disk.devices)
    options = {"devices": words, "extra": disk.drive(tmp_path), "coco": coco}
    async with guest(script, tmp_path, **options) as vm:
        done = await judged(vm)
    assert done.info.pages.shared == 0
    assert done.info.counters["host-faults"] == len(done.faults) > 0
    assert {(fault["device"], fault["actor"]) for fault in done.faults} == {
        (disk.actor, Actor.DEVICE)
    }
    assert {fault["verdict"] for fault in done.faults} == {Verdict.DENY}
    first = hashlib.sha256(disk.image(tmp_path).read_bytes()).hexdigest()
    assert first not in done.console
    if disk is not NVME:  # whose doorbell rings in the host, a moment later
        assert any(kernel_function(symbols, fault["rip"]) for fault in done.faults)


async def judged(vm: Vm) -> Journaled:
    """Run until the kernel's driver has met a fault, and end soon after, as a user's deadline would."""
    with vm.events(limit=10_000) as batches:
        async with asyncio.timeout(DEADLINE_S):
            await kernel_fault(batches)
    try:
        await vm.wait_exit(timeout_s=DENIED_S)
    except DeadlineExceeded:
        await vm.stop()
    return Journaled.of(vm, vm.run.events)


async def kernel_fault(batches: AsyncIterable[Records]) -> None:
    """Return once the journal has a fault after the firmware, which probes the devices as well."""
    in_kernel = False
    async for batch in batches:
        for record in batch:
            in_kernel |= record["kind"] == Kind.PHASE and record["flags"] == Phase.KERNEL
            if in_kernel and record["kind"] == Kind.HOST_FAULT:
                return
    raise AssertionError("the guest ended without a fault of its kernel's")


def kicked_by_cpu(device: str) -> str:
    return device + KICKED_BY_CPU if device.startswith("virtio") else device


def kernel_function(symbols: Symbols, rip: int) -> str | None:
    """Return the guest kernel's function; none for what firmware or nobody did."""
    return symbols.function(rip) if rip >> 63 else None


async def test_under_deny_the_network_stays_silent(tmp_path: Path, symbols: Symbols) -> None:
    async with host_server() as server:
        script = net_script(server)
        nic = (*NET[:-1], kicked_by_cpu(NET[-1]))
        async with guest(script, tmp_path, extra=nic) as vm:
            done = await judged(vm)
        assert server.received == ""
        assert server.sent not in done.console
    assert {fault["device"] for fault in done.faults} == {NIC}
    assert any(kernel_function(symbols, fault["rip"]) for fault in done.faults)
    assert done.info.pages.shared == 0


async def test_under_deny_without_disks_nothing_is_shared(tmp_path: Path) -> None:
    async with guest("true", tmp_path) as vm:
        outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
        done = Journaled.of(vm, vm.run.events)
    assert outcome.guest_status == 0
    assert done.info.pages.shared == 0
    assert (done.info.counters["host-faults"], done.faults) == (0, [])
    assert done.info.pages.private > 1000


async def test_under_zero_reads_are_zeros_without_an_error(tmp_path: Path) -> None:
    script = f"sha256sum /dev/{NVME.node}"
    options = {"devices": NVME.devices, "extra": NVME.drive(tmp_path), "on_host_access": "zero"}
    async with guest(script, tmp_path, **options) as vm:
        done = await judged(vm)
    assert {fault["verdict"] for fault in done.faults} == {Verdict.ZERO}
    assert done.info.pages.shared == 0
    content = hashlib.sha256(NVME.image(tmp_path).read_bytes()).hexdigest()
    assert content not in done.console


async def test_under_stop_the_vm_pauses_and_can_go_on(tmp_path: Path) -> None:
    script = f"sha256sum /dev/{NVME.node}"
    options = {"devices": NVME.devices, "extra": NVME.drive(tmp_path), "on_host_access": "stop"}
    async with guest(script, tmp_path, **options) as vm:
        with vm.qmp_events() as events:
            async with asyncio.timeout(DEADLINE_S):
                while (await anext(events)).name != "STOP":
                    pass
        assert (await vm.qmp("query-status"))["status"] == "paused"
        info = await vm.query()
        (actor,) = [a for a in info.actors if a.faults]
        assert actor.id == NVME.actor
        # Whoever inspects it decides that this device may, and lets the guest go on.
        await vm.set_policy("share")
        await vm.cont()
        assert (await vm.qmp("query-status"))["status"] == "running"
        await vm.stop()
        kinds = {record["kind"] for record in JournalFile(vm.run.events).of_kind(Kind.POLICY)}
        assert kinds == {Kind.POLICY}
