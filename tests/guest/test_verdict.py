# SPDX-License-Identifier: GPL-2.0-or-later
"""Green means tested: real kernels that are unaware, in trouble, or stopped, and stock ones that are not."""

import re
from pathlib import Path

import pytest

from cvmlab.boot.plan import plan
from cvmlab.boot.request import Request
from cvmlab.machine.spec import Firmware
from cvmlab.results.result import Outcome
from tests.guest.devices import PC_FIRMWARE
from tests.guest.program import cvmlab, finish, start, wait_for_run, wait_for_text


pytestmark = [
    pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(300),
]  # fmt: skip

KERNEL_BASE = 0xFFFFFFFF80000000
PANIC = "Kernel panic - not syncing"


@pytest.mark.fault("F3")
@pytest.mark.parametrize("firmware", PC_FIRMWARE)
def test_a_kernel_without_tdx_fails_as_a_td_and_says_why(firmware: Firmware) -> None:
    words = ("boot", "debian-bookworm", "--coco", "tdx", "--firmware", firmware, "--json", "-")
    done = cvmlab(*words)
    assert (done.code, done.result.outcome) == (87, Outcome.UNAWARE)
    assert "the guest's kernel never spoke TDX" in done.err
    assert "this kernel has no TDX support: CONFIG_INTEL_TDX_GUEST is not set" in done.err
    evidence = done.result.evidence
    assert evidence is not None
    assert evidence.first_exit is not None
    assert re.match(r"(CPUID|RDMSR|WRMSR|IN|OUT) 0x[0-9a-f]+ in \w+", evidence.first_exit)
    assert f"at the latest at {evidence.first_exit}" in done.err
    if firmware is Firmware.SEABIOS:
        assert cvmlab(*words, "--allow-unaware").code == 0


@pytest.mark.fault("F4", "F20")
def test_a_kernel_without_snp_ends_at_once_with_the_reason() -> None:
    done = cvmlab("boot", "debian-bullseye", "--coco", "sev-snp", "--json", "-")
    found = done.result
    assert (done.code, found.outcome) == (87, Outcome.MISUSE)
    assert found.message.startswith("the guest broke a rule of its interface: VMGEXIT of vCPU 0")
    assert found.duration < 100


@pytest.mark.fault("F3")
@pytest.mark.parametrize("firmware", PC_FIRMWARE)
@pytest.mark.parametrize("coco", ["tdx", "sev", "sev-es", "sev-snp"])
def test_a_stock_kernel_is_seen_to_take_part(coco: str, firmware: Firmware) -> None:
    done = cvmlab("boot", "--coco", coco, "--firmware", firmware, "--exec", "true", "--json", "-")
    evidence = done.result.evidence
    assert done.code == 0, done.err
    assert evidence is not None
    assert (evidence.kernel_ran, evidence.spoke) == (True, True)
    assert evidence.kernel_calls > 0


@pytest.mark.fault("F17")
def test_an_oops_fails_a_boot_whatever_else_becomes_of_it() -> None:
    """The code that answers a key of SysRq is replaced by zeros, and then called."""
    command = "echo it-is-$((6*7)); sleep 10; (echo m > /proc/sysrq-trigger); exit 0"
    kernel = plan(Request.of(exec=command)).symbols.get()
    assert kernel is not None
    address = int(kernel.addresses[kernel.names.index("sysrq_handle_showmem")])
    gpa = (address - KERNEL_BASE) & ~0xFFF
    words = ("--name", "lab", "--exec", command, "--timeout", "60", "--json", "-")
    with start("boot", *words) as process:
        wait_for_text(wait_for_run("lab").path / "console.log", "it-is-42")
        ranges = f'{{"id": "ram0", "ranges": [{{"gpa": {gpa}, "size": 4096}}]}}'
        assert cvmlab("qmp", "lab", "restricted-memory-discard", ranges).code == 0
        done = finish(process)
    assert (done.code, done.result.outcome) == (255, Outcome.KERNEL_TROUBLE)
    # On a busy host a stall may be told before it.
    oops = ("BUG: ", "Oops", "invalid opcode")
    assert any(line.startswith(oops) for line in done.result.kernel_trouble)


@pytest.mark.fault("V6")
def test_only_the_kernel_can_panic(tmp_path: Path) -> None:
    assert cvmlab("boot", "--exec", f"echo '{PANIC}: not me'; sleep 1").code == 0
    crash = ("boot", "--exec", "echo c > /proc/sysrq-trigger", "--json", "-")
    done = cvmlab(*crash)
    assert (done.code, done.result.outcome) == (255, Outcome.GUEST_PANIC)
    done = cvmlab(*crash, "--on-panic", "expect")
    assert done.code == 0, done.err
    assert done.result.message.startswith(f"the guest panicked, as expected: {PANIC}")


@pytest.mark.fault("V5")
def test_a_reboot_is_the_guests_own_end() -> None:
    done = cvmlab("boot", "--exec", "reboot -f", "--json", "-")
    assert (done.code, done.result.outcome) == (83, Outcome.GUEST_RESET)
    assert done.result.message == "the guest reset itself before its command had ended"


@pytest.mark.fault("V10")
@pytest.mark.parametrize("firmware", PC_FIRMWARE)
def test_a_disk_that_cannot_boot_is_told_at_once(tmp_path: Path, firmware: Firmware) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(8 << 20))
    words = ("--coco", "off", "--firmware", firmware, "--timeout", "100", "--json", "-")
    done = cvmlab("boot", "--disk", str(disk), *words)
    assert (done.code, done.result.outcome) == (83, Outcome.NOT_BOOTED)
    assert "nothing that it can boot" in done.result.message


@pytest.mark.fault("V9")
def test_a_quit_from_outside_is_not_ok() -> None:
    with start("boot", "--name", "lab", "--exec", "sleep 1000", "--json", "-") as process:
        wait_for_run("lab")
        assert cvmlab("stop", "lab").code == 0
        done = finish(process)
    assert (done.code, done.result.outcome) == (83, Outcome.STOPPED)
