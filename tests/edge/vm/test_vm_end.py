# SPDX-License-Identifier: GPL-2.0-or-later
"""How a VM fails to start, and all the ways in which it ends, against a fake QEMU."""

import json
import os
from pathlib import Path

import pytest

from cvmlab.base.errors import (
    CommandRefused,
    CvmError,
    DeadlineExceeded,
    GuestPanic,
    MarkerNotSeen,
    OutcomeUnknown,
    PluginError,
    VmExited,
)
from cvmlab.memory.journal import JournalFile
from cvmlab.vm.outcome import End
from tests.fakes.plan import Plan
from tests.fakes.vms import fake_vm, run_folders


pytestmark = pytest.mark.usefixtures("state_home")


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (Plan(exit_at_start=1), VmExited,
         "QEMU did not start, it ended with status 1: qemu: it cannot be"),
        (Plan(exit_at_start=-11), VmExited,
         "QEMU did not start, it ended with signal 11 (SIGSEGV): qemu: it cannot be"),
        (Plan(no_plugin="at start"), PluginError, "this QEMU lacks the restricted-memory plugin"),
        (Plan(no_plugin="in QMP"), PluginError,
         "this QEMU (10.0.99) lacks the restricted-memory plugin: no memory-backend-restricted"),
        (Plan(greeting={"hello": "I am no QEMU"}), PluginError,
         "the program at the QMP socket is not QEMU"),
        (Plan(no_greeting=True), DeadlineExceeded, "waited 0.2 s for QEMU's QMP greeting"),
        (Plan(on={"query-version": 3}), VmExited, "QEMU did not start, it ended with status 3"),
        (Plan(on={"query-commands": "drop"}), OutcomeUnknown,
         "the connection to QEMU ended before query-commands was answered"),
        (Plan(on={"query-restricted-memory": "truncate"}), OutcomeUnknown,
         "the connection to QEMU ended before query-restricted-memory was answered"),
        (Plan(on={"query-version": "garbage"}), OutcomeUnknown, "before query-version"),
        (Plan(on={"cont": -9}), OutcomeUnknown, "before cont was answered"),
    ],
)  # fmt: skip
async def test_a_vm_that_does_not_start_says_why_and_leaves_only_its_folder(
    tmp_path: Path, state_home: Path, plan: Plan, error: type[CvmError], message: str
) -> None:
    start_timeout_s = 0.2 if plan.no_greeting else 5.0
    with pytest.raises(error) as caught:
        async with fake_vm(tmp_path, plan, start_timeout_s=start_timeout_s):
            pass
    assert message in caught.value.message
    assert caught.value.exit_code in (84, 124)
    assert caught.value.hint
    (folder,) = run_folders(state_home)
    assert not (folder / "qmp.sock").exists()
    assert (folder / "cmdline").read_text().count("memory-backend-restricted") == 1


async def test_qemus_death_ends_every_wait(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"console": "so far\n"}, {"die": -11}))) as vm:
        with pytest.raises(VmExited, match=r"signal 11 \(SIGSEGV\) before 'login:'") as caught:
            await vm.wait_for("login:")
        assert caught.value.status == -11
        outcome = await vm.wait_exit(timeout_s=5)
        assert (outcome.end, outcome.exit_code) == (End.DIED, 84)
        with pytest.raises(VmExited) as caught:
            await vm.convert("0+4K", "shared")
        assert caught.value.status == -11


async def test_a_command_in_flight_when_qemu_dies_has_no_known_outcome(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(on={"restricted-memory-convert": -9})) as vm:
        with pytest.raises(OutcomeUnknown, match="restricted-memory-convert") as caught:
            await vm.convert("0+4K", "shared")
        assert caught.value.status == -9


async def test_an_answer_that_makes_no_sense_is_the_peers_fault(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(refuse={"query-status": "no"}, on={"stop": "hang"})) as vm:
        with pytest.raises(CommandRefused, match="QEMU refused query-status: no"):
            await vm.qmp("query-status")
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for QEMU to answer stop"):
            await vm.command("stop", timeout_s=0.05)
        assert await vm.convert("0+4K", "shared") == 1


async def test_a_marker_that_never_comes(tmp_path: Path) -> None:
    plan = Plan(boot=({"console": "booting\nstuck here\n"},))
    async with fake_vm(tmp_path, plan) as vm:
        with pytest.raises(DeadlineExceeded) as caught:
            await vm.wait_for("login:", timeout_s=0.2)
    assert caught.value.message == (
        "waited 0.2 s for 'login:' on the console; the last line was: stuck here"
    )
    assert caught.value.exit_code == 124


async def test_an_agent_that_never_speaks(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for the guest's agent"):
            await vm.wait_hello(timeout_s=0.05)
    async with fake_vm(tmp_path, Plan(boot=({"shutdown": "guest-shutdown"},))) as vm:
        with pytest.raises(MarkerNotSeen, match="the guest powered-off first"):
            await vm.wait_hello(timeout_s=5)


async def test_power_off_before_the_marker(tmp_path: Path) -> None:
    async with fake_vm(
        tmp_path, Plan(boot=({"console": "bye\n"}, {"shutdown": "guest-shutdown"}))
    ) as vm:
        with pytest.raises(MarkerNotSeen) as caught:
            await vm.wait_for("login:")
    assert caught.value.message == (
        "never saw 'login:' on the console: the guest powered-off first"
    )
    assert caught.value.exit_code == 83


async def test_a_panic_ends_a_wait_and_decides_the_outcome(tmp_path: Path) -> None:
    panic = "Kernel panic - not syncing: VFS"
    plan = Plan(boot=({"console": f"[    1.000000] {panic}\r\n"}, {"shutdown": "guest-reset"}))
    async with fake_vm(tmp_path, plan) as vm:
        with pytest.raises(GuestPanic, match="VFS") as caught:
            await vm.wait_for("login:")
        assert caught.value.exit_code == 255
        outcome = await vm.wait_exit(timeout_s=5)
        assert (outcome.end, outcome.detail, outcome.exit_code) == (End.PANICKED, panic, 255)


async def test_an_unwanted_reset_is_no_success(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"shutdown": "guest-reset"},))) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert (outcome.end, outcome.exit_code) == (End.REBOOTED, 83)


async def test_a_crash_at_quit_is_not_success(tmp_path: Path) -> None:
    plan = Plan(boot=({"shutdown": "guest-shutdown"},), quit_status=-11)
    async with fake_vm(tmp_path, plan) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert outcome.end is End.DIED
    assert outcome.detail == "powered-off, then QEMU ended with signal 11 (SIGSEGV)"
    assert outcome.exit_code == 84


async def test_a_qemu_that_ignores_everything_is_killed(tmp_path: Path) -> None:
    plan = Plan(on={"quit": "hang all"}, ignore_sigterm=True)
    async with fake_vm(tmp_path, plan, stop_timeout_s=0.1) as vm:
        outcome = await vm.stop()
    assert (outcome.end, outcome.qemu_status) == (End.DIED, -9)


async def test_a_qemu_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(on={"stop": "hang all"}), stop_timeout_s=0.2) as vm:
        with pytest.raises(DeadlineExceeded):
            await vm.command("stop", timeout_s=0.05)
        outcome = await vm.stop()
        assert (outcome.end, outcome.qemu_status) == (End.STOPPED, 0)  # it still heeds SIGTERM
        assert '"execute":"quit"' not in vm.run.qmp_log.read_text()


async def test_nothing_is_sent_after_power_off_but_the_last_commands(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"shutdown": "guest-shutdown"},))) as vm:
        await vm.wait_exit(timeout_s=5)
        with pytest.raises(VmExited, match="was not sent"):
            await vm.convert("0+4K", "shared")
        lines = [json.loads(line) for line in vm.run.qmp_log.read_text().splitlines()]
        sent = [line["sent"]["execute"] for line in lines if "sent" in line]
        assert sent[-3:] == ["cont", "query-restricted-memory", "quit"]


async def test_stop_can_be_repeated(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        first = await vm.stop()
        assert first.end is End.STOPPED
        assert not first.failed
        assert await vm.stop() is first


async def test_a_garbled_ring_ends_the_vm_with_one_clear_error(
    tmp_path: Path, state_home: Path
) -> None:
    record_kind = 4096 + 48
    plan = Plan(
        boot=(
            {"write_ring": [record_kind, "63"]},
            {"write_ring": [4096, "01"]},
            {"write_ring": [64, "01"]},
        )
    )
    with pytest.raises(PluginError, match="record 1 is of unknown kind 99"):
        async with fake_vm(tmp_path, plan) as vm:
            await vm.wait_exit(timeout_s=5)
    assert len(run_folders(state_home)) == 1


async def test_a_record_begun_by_a_dying_qemu_is_counted_and_skipped(tmp_path: Path) -> None:
    plan = Plan(boot=({"records": 3}, {"unpublished": None}, {"records": 2}, {"die": -9}))
    async with fake_vm(tmp_path, plan) as vm:
        await vm.wait_exit(timeout_s=5)
        assert vm.journal.unpublished == 1
        assert vm.journal.total == 5
        journal = JournalFile(vm.run.events)
        assert journal.gaps() == 1
        assert journal.records["seq"].tolist() == [1, 2, 3, 5, 6]


async def test_a_ring_that_overflows_counts_what_it_lost(tmp_path: Path) -> None:
    plan = Plan(boot=({"records": 500}, {"shutdown": "guest-shutdown"}))
    async with fake_vm(tmp_path, plan, ring_records=64) as vm:
        await vm.wait_exit(timeout_s=5)
        assert vm.journal.total + vm.journal.ring.dropped == 500
        assert vm.journal.ring.dropped > 0


async def test_a_guest_that_gives_up_by_a_call_to_its_host_is_quoted(tmp_path: Path) -> None:
    stop = {"reason": "fatal-error", "text": "TD guest reports a fatal error 0x0: no memory"}
    plan = Plan(boot=({"crash": stop}, {"event": ["GUEST_PANICKED", {"action": "pause"}]}))
    async with fake_vm(tmp_path, plan) as vm:
        outcome = await vm.wait_exit(timeout_s=10)
    assert (outcome.end, outcome.exit_code) == (End.PANICKED, 255)
    assert outcome.detail == "TD guest reports a fatal error 0x0: no memory"


@pytest.mark.fault("V5")
async def test_a_triple_fault_is_told_from_a_reboot(tmp_path: Path) -> None:
    stop = {"reason": "triple-fault", "text": "a triple fault of vCPU 0 at 0x1000", "pc": 0x1000}
    plan = Plan(boot=({"crash": stop}, {"shutdown": "guest-reset"}))
    async with fake_vm(tmp_path, plan) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert (outcome.end, outcome.exit_code) == (End.TRIPLE_FAULTED, 255)
    assert outcome.detail == stop["text"]
    assert outcome.stop is not None
    assert outcome.stop.pc == 0x1000


@pytest.mark.fault("V5")
async def test_a_reboot_by_triple_fault_after_the_command_is_no_crash(tmp_path: Path) -> None:
    """Linux may reset the machine that way, when nothing else works."""
    stop = {"reason": "triple-fault", "text": "a triple fault of vCPU 0 at 0x1000"}
    steps = ({"agent": "cvmlab exit 0\n"}, {"crash": stop}, {"shutdown": "guest-reset"})
    async with fake_vm(tmp_path, Plan(boot=steps)) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert (outcome.end, outcome.exit_code) == (End.REBOOTED, 0)


@pytest.mark.fault("V10")
async def test_a_dying_qemus_last_word_is_quoted(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"log": "qemu: no storage"}, {"die": 1}))) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert outcome.detail == "QEMU died with status 1: qemu: no storage"


@pytest.mark.fault("U8")
async def test_the_memory_is_freed_when_qemu_dies(tmp_path: Path) -> None:
    """As when the kernel's OOM killer ends it: a script may go on for hours."""
    async with fake_vm(tmp_path, Plan(boot=({"touch": [0, 8]}, {"die": -9}))) as vm:
        fds = vm.memory_files.fds
        numbers = [fd for fd in (fds.private, fds.shared) if fd is not None]
        held = {os.fstat(fd).st_ino for fd in numbers}
        outcome = await vm.wait_exit(timeout_s=10)
        assert outcome.end is End.DIED
        assert not held & {os.fstat(fd).st_ino for fd in numbers}
        assert vm.memory_files.storage_bytes() == (0, 0)
        assert vm.pages.counts().private == 8  # what was counted is there to be judged


@pytest.mark.fault("U8")
async def test_the_memory_of_a_guest_that_powered_off_can_be_looked_at(tmp_path: Path) -> None:
    plan = Plan(boot=({"touch": [0, 8]}, {"shutdown": "guest-shutdown"}))
    async with fake_vm(tmp_path, plan) as vm:
        await vm.wait_exit(timeout_s=10)
        assert not vm.memory_files.freed
