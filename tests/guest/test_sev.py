# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock kernels as SEV, SEV-ES and SEV-SNP guests: by SeaBIOS and by OVMF, with devices, attested."""

import asyncio
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.debian import packages
from cvmlab.machine.spec import BootSpec, Firmware
from cvmlab.memory.records import Phase
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.guest import devices
from tests.guest.devices import (
    PC_FIRMWARE,
    TSM_REPORT,
    VIRTIO,
    Journaled,
    disk_script,
    guest,
    host_server,
    net_script,
    said,
    written,
)
from tests.guest.program import cvmlab
from tests.guest.test_devices import NET


pytestmark = [
    pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(300),
]  # fmt: skip

DEADLINE_S = 200
FEATURES = {"sev": "AMD SEV", "sev-es": "AMD SEV SEV-ES", "sev-snp": "AMD SEV SEV-ES SEV-SNP"}
LOOK = "dmesg | grep -E 'Encryption Features|smp: Brought'"
FIRMWARE_DATA_BYTES = 16 << 20  # OVMF's own data are below
LOOKS, LOOP_BYTES = 40, 64
SWIOTLB_PAGES = (64 << 20) >> 12
ATTEST = (
    f"{TSM_REPORT} && cat provider && "
    "wc -c <outblob && head -c 144 outblob | tail -c 64 && echo && "
    "grep -c FAKE outblob"
)


@pytest.mark.parametrize("image", ["debian-devices", "debian-backports"])
@pytest.mark.parametrize("firmware", PC_FIRMWARE)
@pytest.mark.parametrize(("coco", "cpus"), [("sev", 2), ("sev-es", 2), ("sev-snp", 1)])
async def test_stock_kernels_boot_and_their_devices_work(
    tmp_path: Path, image: str, firmware: Firmware, coco: str, cpus: int
) -> None:
    before = VIRTIO.drive(tmp_path)
    content = hashlib.sha256(VIRTIO.image(tmp_path).read_bytes()).hexdigest()
    async with host_server() as server:
        script = "; ".join([LOOK, disk_script(VIRTIO), net_script(server)])
        options = {
            "coco": coco, "cpus": cpus, "firmware": firmware, "image": image,
            "devices": VIRTIO.devices, "extra": (*before, *NET),
        }  # fmt: skip
        async with guest(script, tmp_path, **options) as vm:
            outcome = await vm.wait_exit(timeout_s=DEADLINE_S)
            done = Journaled.of(vm, vm.run.events)
    assert (outcome.end, outcome.guest_status) == (End.POWERED_OFF, 0)
    assert f"Memory Encryption Features active: {FEATURES[coco]}" in done.console
    assert f"Brought up 1 node, {cpus} CPU" in done.console
    assert said(done.console, VIRTIO.actor, "has") == content
    assert said(done.console, VIRTIO.actor, "wrote") == written(VIRTIO, tmp_path)
    assert said(done.console, "net", "has") == server.sent
    assert said(done.console, "net", "wrote") == server.received
    assert done.faults == []


@pytest.mark.parametrize(
    ("image", "firmware"), [("debian", "seabios"), ("debian-backports", "ovmf")]
)
def test_snp_is_attested_by_configfs(tmp_path: Path, image: str, firmware: str) -> None:
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", image, "--coco", "sev-snp", "--firmware", firmware, "--cpus", "2", "--quotes",
        "--exec", ATTEST, "--max-faults", "0", "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    console = (folder / "console.log").read_text()
    assert done.code == 0, console
    assert "sev_guest" in console
    assert "1184" in console
    assert "A" * 64 in console
    assert not (folder / "quotes.sock").exists()


def test_most_of_a_large_guest_stays_unvalidated(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", "sev-snp", "--firmware", "ovmf", "--cpus", "2", "-m", "5G",
        "--exec", "grep Unaccepted /proc/meminfo", "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    (line,) = (
        line for line in (folder / "console.log").read_text().splitlines() if "Unaccepted" in line
    )
    unaccepted_pages = int(line.split()[1]) // 4
    assert unaccepted_pages > (2 << 30) >> 12
    # The command ran before the power-off, which may accept one more unit or two.
    assert 0 <= unaccepted_pages - done.result.pages.pending <= 2 * ((4 << 20) >> 12)
    assert done.result.pages.shared >= SWIOTLB_PAGES


def firmware_with_hashes() -> Path:
    """Debian unstable has the firmware that has a place for them."""
    unpacked = packages.unpack(packages.fetch("ovmf-amdsev", "sid"))
    return unpacked / "usr/share/ovmf/OVMF.amdsev.fd"


@pytest.mark.parametrize("coco", ["sev", "sev-es", "sev-snp"])
def test_firmware_checks_the_hashes_of_what_it_boots(tmp_path: Path, coco: str) -> None:
    folder = tmp_path / "run"
    words = (
        "boot", "--coco", coco, "--firmware", str(firmware_with_hashes()), "--exec", LOOK,
        "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    done = cvmlab(*words, "--coco-option", "kernel-hashes=on")
    assert done.code == 0
    assert f"Features active: {FEATURES[coco]}" in (folder / "console.log").read_text()


def with_hashes(coco: str, *options: str) -> BootSpec:
    firmware = firmware_with_hashes()
    return BootSpec(
        **devices.guest_options("true", coco=coco, firmware=firmware, guest_options=options)
    )


async def dead_loop(vm: Vm) -> None:
    """Wait until the CPU is seen at one place, give or take an instruction, again and again."""
    places: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(places) < LOOKS or max(places) - min(places) > LOOP_BYTES:
            text = await vm.command("human-monitor-command", {"command-line": "info registers"})
            (place,) = re.findall(r"\b[RE]IP=([0-9a-f]+)", text)
            places = [*places, int(place, 16)][-LOOKS:]
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("coco", ["sev", "sev-snp"])
async def test_firmware_stops_at_what_has_another_hash(tmp_path: Path, coco: str) -> None:
    """The table is changed before a CPU runs, as if the initrd were another."""
    # Its registers are looked at.
    spec = replace(with_hashes(coco, "kernel-hashes=on"), debuggable=True)
    assert spec.initrd is not None
    digest = hashlib.sha256(spec.initrd.read_bytes()).digest()
    async with Vm(spec, run_dir=tmp_path / "run", paused=True) as vm:
        private = vm.memory_files.fds.private
        place = os.pread(private, FIRMWARE_DATA_BYTES, 0).index(digest)
        os.pwrite(private, bytes([digest[0] ^ 1]), place)
        await vm.cont()
        await dead_loop(vm)
        assert vm.pages.phase is Phase.FIRMWARE
        await vm.stop()


async def test_firmware_with_a_place_for_hashes_boots_nothing_without(tmp_path: Path) -> None:
    async with Vm(with_hashes("sev-snp"), run_dir=tmp_path / "run") as vm:
        await vm.console.wait_for(
            "No bootable option was found", fail=["Linux version"], timeout_s=DEADLINE_S
        )
        await vm.stop()


@pytest.mark.fault("F10")
@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
@pytest.mark.parametrize("coco", ["sev-es", "sev-snp"])
def test_a_stock_kernel_takes_every_vc(tmp_path: Path, coco: str, firmware: str) -> None:
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", coco, "--coco-option", "vc=strict", "--cpus", "2", "--exec", LOOK,
        "--firmware", firmware,
        "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    assert f"Features active: {FEATURES[coco]}" in (folder / "console.log").read_text()


async def test_a_reboot_is_a_fresh_launch(tmp_path: Path) -> None:
    script = "dmesg | grep 'Encryption Features'; reboot -f"
    options = {"coco": "sev-snp", "allow_reboot": True, "image": devices.IMAGE}
    async with guest(script, tmp_path, **options) as vm:
        for _boot in range(2):
            await vm.console.wait_for("AMD SEV SEV-ES SEV-SNP", timeout_s=DEADLINE_S)
        await vm.stop()


def test_the_same_machine_without_it_is_a_control(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", "off", "--exec", f"! {LOOK.partition('|')[0]} | grep Features",
        "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    assert "Encryption" not in (folder / "console.log").read_text()
