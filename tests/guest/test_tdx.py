# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock kernels as TDX guests: by SeaBIOS and by TDVF, attested by a service that fakes it."""

import hashlib
import random
from pathlib import Path

import pytest

from cvmlab.images.boot_files import resolve
from cvmlab.machine.spec import Firmware
from cvmlab.qemu.build import ovmf
from tests.guest.devices import PC_FIRMWARE, TSM_REPORT, guest
from tests.guest.plain_boot import Booted, boot
from tests.guest.program import cvmlab


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

LOOK = "dmesg | grep -E 'tdx: Guest|Encryption Features|SWIOTLB|smp: Brought|Unexpected'"
DISK_BYTES = 4 << 20
SWIOTLB_PAGES = (64 << 20) >> 12
REBOOT_DEADLINE_S = 200


def td(options: str = "", *extra: str) -> tuple[str, ...]:
    """Return QEMU's options for a TD in plain_boot's machine."""
    guest = options if options.startswith("{") else f"tdx-guest,id=tdx0{options}"
    return (
        *("-object", guest, "-object", "memory-backend-restricted,id=ram0,size=1G,profile=tdx"),
        *("-machine", "memory-backend=ram0,confidential-guest-support=tdx0", *extra),
    )


def assert_is_td(booted: Booted) -> None:
    for line in ("tdx: Guest detected", "Memory Encryption Features active: Intel TDX"):
        assert line in booted.console
    assert "Unexpected" not in booted.console
    assert booted.channel[-1] == "cvmlab exit 0"


@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_a_stock_kernel_takes_every_ve(tmp_path: Path, firmware: str) -> None:
    bios = ("-bios", str(ovmf())) if firmware == "ovmf" else ()
    extra = td(",ve=strict", "-smp", "2", *bios)
    assert_is_td(boot(tmp_path, resolve(exec_command=LOOK), extra=extra))


@pytest.mark.parametrize("fault", ["meltdown", "indirect_target_selection", "mmio_stale_data"])
def test_a_kernel_guards_against_no_fault_of_a_host(fault: str) -> None:
    """Else it would isolate its page tables, or jump to a thunk for each return."""
    script = f"test \"$(cat /sys/devices/system/cpu/vulnerabilities/{fault})\" = 'Not affected'"
    assert cvmlab("boot", "--coco", "tdx", "--exec", script).code == 0


@pytest.mark.fault("F19")
def test_a_kernel_finds_a_processor_that_exists() -> None:
    script = "dmesg | grep 'x86/PAT: Configuration' && grep 'cpu family.*: 6' /proc/cpuinfo"
    assert cvmlab("boot", "--coco", "tdx", "--exec", script).code == 0


@pytest.mark.parametrize("policy", ["max:1M", "retry:2"])
def test_a_stock_kernel_copes_with_conversions_cut_short_or_put_off(policy: str) -> None:
    done = cvmlab(
        "boot", "--coco", "tdx", "--mapgpa", policy, "--exec", "true", "--json", "-"
    )  # fmt: skip
    assert (done.code, done.result.refused) == (0, ())
    assert done.result.pages.shared >= SWIOTLB_PAGES


@pytest.mark.parametrize(("policy", "refused"), [("retry:3", False), ("refuse", True)])
def test_a_conversion_that_a_stock_kernel_gives_up_is_explained(
    tmp_path: Path, policy: str, *, refused: bool
) -> None:
    done = cvmlab(
        "boot", "--coco", "tdx", "--mapgpa", policy, "--exec", "dmesg | grep CPA; false", "--json", "-",
        "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert (done.code, done.result.pages.shared) == (1, 0)
    assert "CPA VMM failure to convert memory" in (tmp_path / "run/console.log").read_text()
    assert "advice: its conversions were answered by --mapgpa" in done.err
    assert {item.reason for item in done.result.refused} == ({"by-policy"} if refused else set())


@pytest.mark.parametrize("firmware", PC_FIRMWARE)
@pytest.mark.timeout(500)
async def test_a_reboot_is_a_fresh_launch(tmp_path: Path, firmware: Firmware) -> None:
    options = {"coco": "tdx", "allow_reboot": True, "firmware": firmware}
    async with guest(f"{LOOK}; reboot -f", tmp_path, **options) as vm:
        for _boot in range(2):
            await vm.console.wait_for("Features active: Intel TDX", timeout_s=REBOOT_DEADLINE_S)
            await vm.console.wait_for("Restarting system", timeout_s=REBOOT_DEADLINE_S)
        await vm.stop()


def test_disk_contents_arrive_through_bounce_buffers(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(DISK_BYTES)
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "debian", "--coco", "tdx", "--disk", str(disk), "--exec", "md5sum /dev/vda",
        "--max-faults", "0", "--json", "-", "--run-dir", str(folder),
    )  # fmt: skip
    assert done.code == 0
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert digest in (folder / "console.log").read_text()
    assert (done.result.counters.host_faults, done.result.counters.guest_violations) == (0, 0)
    assert done.result.pages.shared >= SWIOTLB_PAGES


def test_attestation_by_configfs(tmp_path: Path) -> None:
    script = (
        f"{TSM_REPORT} && cat provider && echo && "
        "head -c 632 outblob | tail -c 64 && echo && grep -c FAKE outblob"
    )
    folder = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", "tdx", "--quotes", "--exec", script, "--json", "-",
        "--run-dir", str(folder),
    )  # fmt: skip
    console = (folder / "console.log").read_text()
    assert done.code == 0, console
    assert "tdx_guest" in console
    assert "A" * 64 in console
    assert not (folder / "quotes.sock").exists()


def test_a_kernel_s_last_call_is_the_verdict() -> None:
    """Linux insists on SEPT_VE_DISABLE, and tells the host so when it is missing."""
    done = cvmlab(
        "boot", "--coco", "tdx", "--coco-option", "sept-ve-disable=off", "--json", "-"
    )  # fmt: skip
    assert done.code == 255
    assert "TD guest reports a fatal error" in done.result.message
    assert "SEPT #VE has to be disabled" in done.result.message
