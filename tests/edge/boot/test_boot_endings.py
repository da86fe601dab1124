# SPDX-License-Identifier: GPL-2.0-or-later
"""Green means tested: how a guest can end, and what the verdict makes of it."""

from pathlib import Path
from typing import ClassVar

import pytest

from cvmlab.results.result import Outcome
from tests.edge.boot.conftest import Boot, Steps


KERNEL: Steps = ({"phase": 1}, {"phase": 3}, {"touch": [200, 50]})
USER: Steps = (*KERNEL, {"agent": "cvmlab hello 6.12.1\n"}, {"phase": 4})
OFF: Steps = ({"shutdown": "guest-shutdown"},)
DONE: Steps = ({"agent": "cvmlab exit 0\n"}, *OFF)
RESET: Steps = ({"shutdown": "guest-reset"},)
PANIC = "Kernel panic - not syncing: sysrq triggered crash"
PANICS: Steps = ({"console": f"[    9.000000] {PANIC}\n"},)
CRASH_KERNEL: Steps = ({"console": "[    0.300000] x: an error\n"},)
KDUMP = "--append crashkernel=256M"


def kernel(line: str) -> Steps:
    return ({"console": f"[    5.000000] {line}\n"},)


@pytest.mark.fault("F3")
class TestAKernelThatNeverSpoke:
    def test_is_a_failure_of_its_own(self, boot: Boot) -> None:
        code, found = boot("--coco tdx", (*USER, {"call": "early"}, *DONE))
        assert (code, found.outcome, found.exit_code) == (87, Outcome.UNAWARE, 87)
        assert found.message.startswith("the guest's kernel never spoke TDX: there was no TDCALL")
        assert found.hint is not None
        assert "CONFIG_INTEL_TDX_GUEST" in found.hint
        assert found.evidence is not None
        assert (found.evidence.kernel_calls, found.evidence.early_calls) == (0, 1)

    def test_passes_if_somebody_means_it(self, boot: Boot) -> None:
        code, found = boot("--coco tdx --allow-unaware", (*USER, *DONE))
        assert (code, found.outcome, found.hint) == (0, Outcome.OK, None)
        assert found.evidence is not None
        assert not found.evidence.spoke

    @pytest.mark.parametrize("coco", ["tdx", "sev", "sev-es", "sev-snp"])
    def test_one_that_spoke_passes(self, boot: Boot, coco: str) -> None:
        code, found = boot(f"--coco {coco}", (*USER, {"call": "kernel"}, *DONE))
        assert code == 0
        assert found.evidence is not None
        assert (found.evidence.spoke, found.evidence.required) == (True, True)

    @pytest.mark.parametrize("coco", ["generic", "sw-protected", "off"])
    def test_profiles_that_ask_nothing_get_nothing(self, boot: Boot, coco: str) -> None:
        steps = DONE if coco == "off" else (*USER, *DONE)
        assert boot(f"--coco {coco}", steps)[0] == 0

    def test_a_guest_without_a_kernel_may_speak_from_anywhere(self, boot: Boot) -> None:
        assert boot("--coco tdx", ({"phase": 1}, {"call": "early"}, *OFF))[0] == 0
        assert boot("--coco tdx", ({"phase": 1}, *OFF))[0] == 87

    def test_explains_a_timeout_and_a_status(self, boot: Boot) -> None:
        assert boot("--coco tdx --timeout 0.3", USER)[0] == 87
        assert boot("--coco tdx", (*USER, {"agent": "cvmlab exit 3\n"}, *OFF))[0] == 87

    def test_is_a_hint_where_something_else_is_the_end(self, boot: Boot) -> None:
        code, found = boot("--coco tdx", (*USER, *PANICS, *RESET))
        assert code == 255
        assert found.hint is not None
        assert "CONFIG_INTEL_TDX_GUEST" in found.hint


@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    ("reason", "code", "outcome", "message"),
    [
        ("misuse", 87, Outcome.MISUSE, "the guest broke a rule of its interface: why"),
        ("guest-fault", 82, Outcome.USE_BEFORE_ACCEPTANCE, "the guest touched a page before"),
        ("host-access", 81, Outcome.HOST_FAULT, "the host touched private memory, which stopped"),
        ("fatal-error", 255, Outcome.GUEST_PANIC, "the guest panicked: why"),
    ],
)
def test_a_stop_by_the_plugin_is_an_ending_at_once(
    boot: Boot, reason: str, code: int, outcome: Outcome, message: str
) -> None:
    stop = {"reason": reason, "text": "why", "vcpu": 0, "pc": 0x1000}
    status, found = boot("--coco sev-snp --timeout 60", (*KERNEL, {"stopped": stop}))
    assert (status, found.outcome) == (code, outcome)
    assert found.message.startswith(message)
    assert found.duration < 30


def test_a_pause_by_somebody_is_no_end(boot: Boot) -> None:
    steps = (*USER, {"event": ["STOP", {}]}, {"event": ["RESUME", {}]}, *DONE)
    assert boot("", steps)[0] == 0


@pytest.mark.fault("V5")
def test_a_triple_fault_and_a_reboot_are_the_guests_own_doing(boot: Boot) -> None:
    stop = {"reason": "triple-fault", "text": "a triple fault of vCPU 0 at 0x1000", "pc": 0x1000}
    code, found = boot("", (*USER, {"crash": stop}, *RESET))
    assert (code, found.outcome) == (255, Outcome.TRIPLE_FAULT)
    assert found.message.startswith("the guest crashed in a triple fault of vCPU 0 at 0x1000")

    code, found = boot("", (*USER, *RESET))
    assert (code, found.outcome) == (83, Outcome.GUEST_RESET)
    assert found.message == "the guest reset itself before it powered off"

    code, found = boot("--coco off", RESET)
    assert found.message == (
        "the guest reset itself, by a reboot or a triple fault, before it powered off"
    )


@pytest.mark.fault("V9")
def test_a_vm_that_was_quit_from_outside_is_not_ok(boot: Boot) -> None:
    code, found = boot("", (*USER, {"shutdown": "host-qmp-quit"}, {"die": 0}))
    assert (code, found.outcome) == (83, Outcome.STOPPED)
    assert found.message == "the VM was stopped from outside before it powered off"


@pytest.mark.fault("F17")
class TestTroubleOfTheKernel:
    def test_fails_a_boot_that_ends_well(self, boot: Boot) -> None:
        code, found = boot("", (*USER, *kernel("Oops: 0002 [#1] SMP"), *DONE))
        assert (code, found.outcome) == (255, Outcome.KERNEL_TROUBLE)
        assert found.message == "the kernel reports trouble: Oops: 0002 [#1] SMP"
        assert found.kernel_trouble == ("Oops: 0002 [#1] SMP",)

    def test_counts_only_in_the_kernels_own_lines(self, boot: Boot) -> None:
        assert boot("", (*USER, {"console": "Oops: 0002 [#1] SMP\n"}, *DONE))[0] == 0

    @pytest.mark.parametrize(
        ("options", "code"),
        [("--fail-on none", 0), ("--fail-on none --fail-on odd", 255), ("--fail-on odd", 255)],
    )
    def test_is_what_the_user_says(self, boot: Boot, options: str, code: int) -> None:
        steps = (*kernel("Oops: 0002 [#1] SMP"), *kernel("x: an odd thing"))
        assert boot(options, (*USER, *steps, *DONE))[0] == code


@pytest.mark.fault("V6")
class TestAPanic:
    def test_printed_by_a_program_ends_nothing(self, boot: Boot) -> None:
        steps = (*USER, {"console": f"{PANIC}\n"}, *DONE)
        assert boot("", steps)[0] == 0

    def test_ends_the_run_even_if_the_guest_hangs(self, boot: Boot) -> None:
        code, found = boot("--timeout 60", (*USER, *PANICS))
        assert (code, found.outcome) == (255, Outcome.GUEST_PANIC)
        assert found.duration < 30

    def test_is_not_the_end_of_the_run_where_a_crash_kernel_may_follow(self, boot: Boot) -> None:
        code, found = boot(KDUMP, (*USER, *PANICS, *CRASH_KERNEL, *DONE))
        assert (code, found.message) == (
            255, f"the guest panicked: {PANIC}; then a crash kernel ran",
        )  # fmt: skip
        assert found.guest_exit == 0

    def test_may_be_lived_through(self, boot: Boot) -> None:
        assert boot(f"{KDUMP} --on-panic wait", (*USER, *PANICS, *CRASH_KERNEL, *DONE))[0] == 0
        assert boot("--on-panic wait", (*USER, *PANICS, *RESET))[0] == 255

    def test_may_be_what_is_wanted(self, boot: Boot) -> None:
        oops = kernel("Oops: 0002 [#1] SMP")
        code, found = boot("--on-panic expect", (*USER, *oops, *PANICS, *RESET))
        assert (code, found.message) == (0, f"the guest panicked, as expected: {PANIC}")
        assert boot(f"{KDUMP} --on-panic expect", (*USER, *PANICS, *CRASH_KERNEL, *DONE))[0] == 0

    def test_that_is_wanted_and_does_not_come_is_a_failure(self, boot: Boot) -> None:
        code, found = boot("--on-panic expect", (*USER, *DONE))
        assert (code, found.outcome, found.message) == (
            83, Outcome.MARKER_NOT_SEEN, "the guest did not panic",
        )  # fmt: skip
        assert boot("--on-panic expect --timeout 0.3", USER)[0] == 124


@pytest.mark.fault("V10")
class TestADiskOfTheHost:
    ERROR: ClassVar[dict[str, object]] = {
        "device": "disk0", "node-name": "#block1", "operation": "write", "nospace": True,
        "reason": "No space left on device",
    }  # fmt: skip

    def test_that_is_full_ends_the_run_at_once(self, boot: Boot) -> None:
        stops = ({"event": ["BLOCK_IO_ERROR", {**self.ERROR, "action": "stop"}]},)
        code, found = boot("--timeout 60 --exec true", (*USER, *stops))
        assert (code, found.outcome) == (84, Outcome.DISK_ERROR)
        assert found.message == (
            "the guest's disk disk0 could not be written: No space left on device"
        )
        assert "free some space" in str(found.hint)
        assert found.duration < 30

    def test_whose_error_the_guest_is_told_ends_nothing(self, boot: Boot) -> None:
        goes_on = ({"event": ["BLOCK_IO_ERROR", {**self.ERROR, "action": "report"}]},)
        assert boot("", (*USER, *goes_on, *DONE))[0] == 0


@pytest.mark.fault("V10")
class TestFirmware:
    GAVE_UP: Steps = ({"console": "BdsDxe: No bootable option or device was found.\r\n"},)
    REFUSED: Steps = ({"console": "BdsDxe: failed to load Boot0001: Access Denied\r\n"},)

    def test_that_finds_nothing_to_boot_ends_the_run_at_once(self, boot: Boot) -> None:
        code, found = boot("--timeout 60", ({"phase": 1}, *self.GAVE_UP))
        assert (code, found.outcome) == (83, Outcome.NOT_BOOTED)
        assert found.message == "the firmware found nothing that it can boot"
        assert found.duration < 30

    def test_that_refuses_a_signature_is_quoted(self, boot: Boot) -> None:
        code, found = boot("", ({"phase": 1}, *self.REFUSED, *self.GAVE_UP))
        assert code == 83
        assert found.message == (
            "Secure Boot refused what the firmware was to start: "
            "BdsDxe: failed to load Boot0001: Access Denied"
        )
        # Then something else may wait for a key.
        assert boot("--timeout 0.3", ({"phase": 1}, *self.REFUSED))[1].outcome is Outcome.NOT_BOOTED

    def test_is_forgotten_when_a_kernel_runs(self, boot: Boot) -> None:
        assert boot("", ({"phase": 1}, *self.REFUSED, *USER, *self.GAVE_UP, *DONE))[0] == 0

    def test_that_resets_before_anything_ran_found_nothing(
        self, boot: Boot, tmp_path: Path
    ) -> None:
        disk = tmp_path / "empty.img"
        disk.write_bytes(bytes(1 << 20))
        words = f"--disk {disk} --firmware seabios --on-host-access share"
        code, found = boot(words, ({"phase": 1}, *RESET), kernel=False)
        assert (code, found.outcome) == (83, Outcome.NOT_BOOTED)
        loaded: Steps = ({"phase": 1}, {"console": "GRUB loading.\n"})
        assert boot(words, (*loaded, *RESET), kernel=False)[1].outcome is Outcome.GUEST_RESET
