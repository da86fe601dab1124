# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole VM, against a fake QEMU."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cvmlab.errors import (
    CommandRefused,
    ConfigError,
    CvmError,
    DeadlineExceeded,
    GuestPanic,
    HostFault,
    MarkerNotSeen,
    OutcomeUnknown,
    PluginError,
    VmExited,
)
from cvmlab.journal import JournalFile
from cvmlab.outcome import End
from cvmlab.ranges import PAGE_SIZE, GpaRange
from cvmlab.records import Kind, Phase
from cvmlab.states import Counter, PageState
from cvmlab.vm import Vm
from tests.fakes.plan import Plan


pytestmark = pytest.mark.usefixtures("state_home")

MakeVm = Callable[..., Vm]
GOOD_BOOT = (
    {"phase": 1},
    {"console": "SeaBIOS\r\n"},
    {"touch": [16, 100]},
    {"phase": 2},
    {"console": "Linux version 6.12\r\nlogin: "},
    {"agent": "cvmlab hello 6.12.1\n"},
)
POWER_OFF = ({"agent": "cvmlab exit 7\n"}, {"shutdown": "guest-shutdown"})


@pytest.fixture
def make_vm(tmp_path: Path) -> MakeVm:
    def make(plan: Plan, **options: object) -> Vm:
        qemu = plan.install(tmp_path / "fake")
        given = {"memory": "64M", "stop_timeout_s": 0.5, "start_timeout_s": 5.0, **options}
        return Vm(qemu=qemu, **given)  # type: ignore[arg-type]

    return make


def run_folders(state_home: Path) -> Sequence[Path]:
    runs = state_home / "cvmlab" / "runs"
    return list(runs.iterdir()) if runs.is_dir() else []


async def test_a_boot_is_watched_from_firmware_to_power_off(
    make_vm: MakeVm, state_home: Path
) -> None:
    async with make_vm(Plan(boot=(*GOOD_BOOT, {"shutdown": "guest-shutdown"}))) as vm:
        assert await vm.wait_hello(timeout_s=5) == "6.12.1"
        match = await vm.wait_for(r"login: $")
        assert match.group() == "login: "
        outcome = await vm.wait_exit(timeout_s=5)
        assert outcome.end is End.POWERED_OFF
        assert (outcome.qemu_status, outcome.exit_code, outcome.failed) == (0, 0, False)
        assert vm.kernel_release == "6.12.1"
        assert vm.qemu_version == "10.0.99"
        assert vm.pages.phase is Phase.KERNEL
        assert vm.pages.counts().private == 100
        assert vm.pages.counters()[Counter.ACCEPTED] == 100
        assert vm.journal.count(Kind.ACCEPT) == 100
        assert len(JournalFile(vm.run.events)) == vm.journal.total == 102
        assert vm.last_info is not None
        assert vm.last_info.counters.accepted == 100
        assert vm.last_info.devices == {3: "disk0"}
        vm.pages.assert_no_host_faults()
    assert run_folders(state_home) == []


async def test_the_commands_exit_status_comes_from_the_agent(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=POWER_OFF)) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert outcome.guest_status == outcome.exit_code == 7
    assert outcome.failed


async def test_conversions_reach_the_table_and_the_journal(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        assert await vm.convert("1M+8K", "shared") == 2
        assert await vm.convert([GpaRange(0x200000, PAGE_SIZE), "3M-4M"], "shared") == 257
        assert await vm.convert("3M+4K", "private", content="preserve") == 1
        assert await vm.accept("0+4K") == 1
        assert await vm.poison("8K+4K") == 1
        assert await vm.discard("8K+4K") == 1
        assert vm.pages.counts().shared == 2 + 257 - 1
        assert vm.pages.state_of(0x100FFF) is PageState.SHARED
        assert vm.pages.state_of(0x102000) is PageState.PENDING
        assert vm.pages.table[0x100] == PageState.SHARED
        shared = [run.range for run in vm.pages.runs() if run.state is PageState.SHARED]
        assert [str(item) for item in shared] == ["0x100000+8K", "0x200000+4K", "0x301000+1020K"]
        assert (await vm.query()).pages.shared == 258
        assert [run.state for run in await vm.query_runs()] == [PageState.PENDING]
        await vm.set_policy("zero")
        assert (await vm.query()).policy == "zero"
        with pytest.raises(IndexError):
            vm.pages.state_of(64 << 20)


async def test_many_ranges_go_in_few_commands(make_vm: MakeVm) -> None:
    ranges = [GpaRange(page * 2 * PAGE_SIZE, PAGE_SIZE) for page in range(8192)]
    async with make_vm(Plan(), memory="128M") as vm:
        assert await vm.convert([*ranges, GpaRange(0x7FFF000, 4096)], "shared") == 8193
        sent = [json.loads(line) for line in vm.run.qmp_log.read_text().splitlines()]
        conversions = [line for line in sent if "memory-convert" in json.dumps(line.get("sent"))]
        assert len(conversions) == 2
        assert vm.pages.counts().shared == 8193
        assert int((vm.pages.table == PageState.SHARED).sum()) == 8193
        assert int(vm.pages.heat(64)[:, PageState.SHARED].sum()) == 8193


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ("1+4K", "0x1+4K does not start and end on a 4 KiB page (rule: aligned)"),
        (["0+8K", "4K+4K"], "0x0+8K and 0x1000+4K overlap (rule: disjoint)"),
        ("64M+4K", "0x4000000+4K is not inside guest RAM, which is 0x0+64M (rule: in-range)"),
        ([], "no range was given (rule: not-empty)"),
        ("nonsense", "'nonsense' is not a range of guest memory"),
        ([GpaRange(n * 4096, 8192) for n in range(0, 500, 4)] + ["8K+4K"], ""),
        ([GpaRange(n * 4096, 8192) for n in range(0, 500, 4)] + ["4K+4K"],
         "0x0+8K and 0x1000+4K overlap (rule: disjoint)"),
        ([GpaRange(n * 4096, 4096) for n in range(500)] + [GpaRange((1 << 64) - 4096, 4096)],
         "0xfffffffffffff000+4K is not inside guest RAM, which is 0x0+64M (rule: in-range)"),
    ],
)  # fmt: skip
async def test_bad_ranges_are_refused_before_qemu_sees_them(
    make_vm: MakeVm, ranges: list[GpaRange | str], message: str
) -> None:
    async with make_vm(Plan()) as vm:
        if not message:
            await vm.convert(ranges, "shared")
            return
        with pytest.raises(ConfigError) as caught:
            await vm.convert(ranges, "shared")
        assert caught.value.message == message
        assert vm.pages.counts().shared == 0


async def test_bad_words_are_refused_with_the_good_ones(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        with pytest.raises(ConfigError, match="there is no 'encrypted'") as caught:
            await vm.convert("0+4K", "encrypted")
        assert "shared, private" in str(caught.value.hint)
        with pytest.raises(ConfigError):
            await vm.set_policy("allow")


async def test_a_refusal_of_qemu_is_told_in_its_words(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        await vm.poison("4K+4K")
        with pytest.raises(CommandRefused, match="page-poisoned") as caught:
            await vm.convert("0+16K", "shared")
        assert caught.value.command == "restricted-memory-convert"
        assert vm.pages.counts().shared == 0
        with pytest.raises(CommandRefused, match="has not been found"):
            await vm.qmp("no-such-thing", some_argument=1)


async def test_pause_and_cont(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"console": "hello"},)), paused=True) as vm:
        assert (await vm.qmp("query-status"))["running"] is False
        await vm.cont()
        await vm.wait_for("hello")
        await vm.pause()
        assert (await vm.qmp("query-status"))["status"] == "paused"


async def test_what_is_typed_reaches_the_guest(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        await vm.send("echo\n")
        await vm.wait_for("^echo$")


async def test_host_faults_fail_the_assertion_and_are_kept_for_the_report(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"host_fault": 0x5008}, {"console": "done"}))) as vm:
        await vm.wait_for("done")
        await vm.stop()
        with pytest.raises(HostFault, match="1 faults"):
            vm.pages.assert_no_host_faults()
        assert [int(fault["gpa"]) for fault in vm.journal.first_faults] == [0x5008]


async def test_events_come_in_batches(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"records": 5000},)), paused=True) as vm:
        with vm.events() as events, vm.qmp_events() as qmp_events:
            await vm.cont()
            seen = 0
            async for batch in events:
                seen += len(batch)
                if seen == 5000:
                    break
            assert events.missed == 0
            await vm.stop()
            assert [event.name async for event in qmp_events] == ["SHUTDOWN"]


async def test_qmp_events_arrive_typed(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"event": ["RESTRICTED_MEMORY_FAULT", {"gpa": 4096}]},))
    async with make_vm(plan, paused=True) as vm:
        with vm.qmp_events() as events:
            await vm.cont()
            event = await anext(events)
        assert (event.name, event.data["gpa"]) == ("RESTRICTED_MEMORY_FAULT", 4096)
        assert event.time_s > 1e9


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
         "what answers on the QMP socket is not QEMU"),
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
    make_vm: MakeVm, state_home: Path, plan: Plan, error: type[CvmError], message: str
) -> None:
    start_timeout_s = 0.2 if plan.no_greeting else 5.0
    with pytest.raises(error) as caught:
        async with make_vm(plan, start_timeout_s=start_timeout_s):
            pass
    assert message in caught.value.message
    assert caught.value.exit_code in (84, 124)
    assert caught.value.hint
    (folder,) = run_folders(state_home)
    assert not (folder / "qmp.sock").exists()
    assert (folder / "cmdline").read_text().count("memory-backend-restricted") == 1


async def test_off_needs_no_plugin(make_vm: MakeVm) -> None:
    async with make_vm(Plan(no_plugin="in QMP"), coco="off") as vm:
        assert vm.qemu_version == "10.0.99"
        with pytest.raises(ConfigError, match="no restricted memory"):
            vm.pages.counts()
        assert (await vm.stop()).end is End.STOPPED


async def test_qemus_death_ends_every_wait(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"console": "so far\n"}, {"die": -11}))) as vm:
        with pytest.raises(VmExited, match=r"signal 11 \(SIGSEGV\) before 'login:'") as caught:
            await vm.wait_for("login:")
        assert caught.value.status == -11
        outcome = await vm.wait_exit(timeout_s=5)
        assert (outcome.end, outcome.exit_code) == (End.DIED, 84)
        with pytest.raises(VmExited) as caught:
            await vm.convert("0+4K", "shared")
        assert caught.value.status == -11


async def test_a_command_in_flight_when_qemu_dies_has_no_known_outcome(make_vm: MakeVm) -> None:
    async with make_vm(Plan(on={"restricted-memory-convert": -9})) as vm:
        with pytest.raises(OutcomeUnknown, match="restricted-memory-convert") as caught:
            await vm.convert("0+4K", "shared")
        assert caught.value.status == -9


async def test_an_answer_that_makes_no_sense_is_the_peers_fault(make_vm: MakeVm) -> None:
    async with make_vm(Plan(refuse={"query-status": "no"}, on={"stop": "hang"})) as vm:
        with pytest.raises(CommandRefused, match="QEMU refused query-status: no"):
            await vm.qmp("query-status")
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for QEMU to answer stop"):
            await vm.command("stop", timeout_s=0.05)
        assert await vm.convert("0+4K", "shared") == 1


async def test_a_marker_that_never_comes(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"console": "booting\nstuck here\n"},))
    async with make_vm(plan) as vm:
        with pytest.raises(DeadlineExceeded) as caught:
            await vm.wait_for("login:", timeout_s=0.2)
    assert caught.value.message == (
        "waited 0.2 s for 'login:' on the console; the last line was: stuck here"
    )
    assert caught.value.exit_code == 124


async def test_an_agent_that_never_speaks(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for the guest's agent"):
            await vm.wait_hello(timeout_s=0.05)
    async with make_vm(Plan(boot=({"shutdown": "guest-shutdown"},))) as vm:
        with pytest.raises(MarkerNotSeen, match="the guest powered-off first"):
            await vm.wait_hello(timeout_s=5)


async def test_power_off_before_the_marker(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"console": "bye\n"}, {"shutdown": "guest-shutdown"}))) as vm:
        with pytest.raises(MarkerNotSeen) as caught:
            await vm.wait_for("login:")
    assert caught.value.message == (
        "never saw 'login:' on the console: the guest powered-off first"
    )
    assert caught.value.exit_code == 83


async def test_a_panic_ends_a_wait_and_decides_the_outcome(make_vm: MakeVm) -> None:
    panic = "Kernel panic - not syncing: VFS"
    plan = Plan(boot=({"console": f"[1.0] {panic}\r\n"}, {"shutdown": "guest-reset"}))
    async with make_vm(plan) as vm:
        with pytest.raises(GuestPanic, match="VFS") as caught:
            await vm.wait_for("login:")
        assert caught.value.exit_code == 255
        outcome = await vm.wait_exit(timeout_s=5)
        assert (outcome.end, outcome.detail, outcome.exit_code) == (End.PANICKED, panic, 255)


async def test_an_unwanted_reset_is_no_success(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"shutdown": "guest-reset"},))) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert (outcome.end, outcome.exit_code) == (End.REBOOTED, 84)


async def test_a_crash_at_quit_is_not_success(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"shutdown": "guest-shutdown"},), quit_status=-11)
    async with make_vm(plan) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert outcome.end is End.DIED
    assert outcome.detail == "powered-off, then QEMU ended with signal 11 (SIGSEGV)"
    assert outcome.exit_code == 84


async def test_a_qemu_that_ignores_everything_is_killed(make_vm: MakeVm) -> None:
    plan = Plan(on={"quit": "hang all"}, ignore_sigterm=True)
    async with make_vm(plan, stop_timeout_s=0.1) as vm:
        outcome = await vm.stop()
    assert (outcome.end, outcome.qemu_status) == (End.DIED, -9)


async def test_nothing_is_sent_after_power_off_but_the_last_commands(make_vm: MakeVm) -> None:
    async with make_vm(Plan(boot=({"shutdown": "guest-shutdown"},))) as vm:
        await vm.wait_exit(timeout_s=5)
        with pytest.raises(VmExited, match="was not sent"):
            await vm.convert("0+4K", "shared")
        lines = [json.loads(line) for line in vm.run.qmp_log.read_text().splitlines()]
        sent = [line["sent"]["execute"] for line in lines if "sent" in line]
        assert sent[-3:] == ["cont", "query-restricted-memory", "quit"]


async def test_stop_can_be_repeated(make_vm: MakeVm) -> None:
    async with make_vm(Plan()) as vm:
        first = await vm.stop()
        assert first.end is End.STOPPED
        assert not first.failed
        assert await vm.stop() is first


async def test_a_garbled_ring_ends_the_vm_with_one_clear_error(
    make_vm: MakeVm, state_home: Path
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
        async with make_vm(plan) as vm:
            await vm.wait_exit(timeout_s=5)
    assert len(run_folders(state_home)) == 1


async def test_a_record_begun_by_a_dying_qemu_is_counted_and_skipped(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"records": 3}, {"unpublished": None}, {"records": 2}, {"die": -9}))
    async with make_vm(plan) as vm:
        await vm.wait_exit(timeout_s=5)
        assert vm.journal.unpublished == 1
        assert vm.journal.total == 5
        journal = JournalFile(vm.run.events)
        assert journal.gaps() == 1
        assert journal.records["seq"].tolist() == [1, 2, 3, 5, 6]


async def test_a_ring_that_overflows_counts_what_it_lost(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"records": 500}, {"shutdown": "guest-shutdown"}))
    async with make_vm(plan, ring_records=64) as vm:
        await vm.wait_exit(timeout_s=5)
        assert vm.journal.total + vm.journal.ring.dropped == 500
        assert vm.journal.ring.dropped > 0


async def test_keep_keeps_the_folder(make_vm: MakeVm, state_home: Path) -> None:
    async with make_vm(Plan(), keep=True):
        pass
    (folder,) = run_folders(state_home)
    assert {path.name for path in folder.iterdir()} >= {
        "cmdline", "qemu.log", "qmp.jsonl", "events.bin", "vm.json",
    }  # fmt: skip
    assert not (folder / "qmp.sock").exists()


async def test_a_failing_body_keeps_the_folder(make_vm: MakeVm, state_home: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make_vm(Plan()):
            raise ZeroDivisionError
    assert len(run_folders(state_home)) == 1


async def test_two_vms_live_side_by_side(make_vm: MakeVm) -> None:
    plan = Plan(boot=({"console": "up"},))
    async with make_vm(plan) as first, make_vm(plan) as second:
        await asyncio.gather(first.wait_for("up"), second.wait_for("up"))
        await first.convert("0+4K", "shared")
        assert second.pages.counts().shared == 0
        assert first.run.path != second.run.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../etc"}, "'../etc' cannot name a VM"),
        ({"memory": "1000"}, "guest memory of 1000 bytes is not a positive multiple of 4 KiB"),
        ({"memory": "64M", "coco": "sgx"}, "unknown profile 'sgx'"),
        ({"memory": "4M"}, "4M of memory is too little to boot a PC"),
        ({"cpus": 0}, "0 CPUs: there may be 1 to 255"),
        ({"kernel": "/nowhere/vmlinuz"}, "there is no file /nowhere/vmlinuz"),
        ({"initrd": "/nowhere"}, "an initrd or a kernel command line needs a kernel"),
        ({"flavour": "x"}, "a VM has no option 'flavour'"),
        ({"net": "bridge"}, "bad option of a VM: 'bridge' is not a valid Net"),
        ({"memory": "lots"}, "'lots' is not a size"),
        ({"coco": "sw-protected", "on_host_access": "share"},
         "policy share needs content to stay in place, and sw-protected has two files"),
        ({"qemu": Path("/nowhere/qemu")}, "/nowhere/qemu is not a program"),
        ({"run_dir": Path("/proc/nowhere")}, "no run folder /proc/nowhere"),
        ({"ring_records": 100}, "the event ring cannot hold 100 records: not a power of two"),
    ],
)  # fmt: skip
async def test_bad_options_start_nothing(
    state_home: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    given: dict[str, object] = {"qemu": Plan().install(tmp_path / "fake"), **options}
    with pytest.raises(ConfigError) as caught:
        async with Vm(**given):  # type: ignore[arg-type]
            pass
    assert caught.value.message.startswith(message)
    assert caught.value.exit_code == 85
