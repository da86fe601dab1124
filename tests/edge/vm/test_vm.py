# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole VM, against a fake QEMU."""

import asyncio
import json
from pathlib import Path

import pytest

from cvmlab.base.errors import (
    CommandRefused,
    ConfigError,
    HostFault,
)
from cvmlab.memory.journal import JournalFile
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.records import Kind, Phase
from cvmlab.memory.states import PageState
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.fakes.plan import Plan
from tests.fakes.vms import fake_vm, run_folders


pytestmark = pytest.mark.usefixtures("state_home")

GOOD_BOOT = (
    {"phase": 1},
    {"console": "SeaBIOS\r\n"},
    {"touch": [16, 100]},
    {"phase": 3},
    {"console": "Linux version 6.12\r\nlogin: "},
    {"agent": "cvmlab hello 6.12.1\n"},
)
POWER_OFF = ({"agent": "cvmlab exit 7\n"}, {"shutdown": "guest-shutdown"})


async def test_a_boot_is_watched_from_firmware_to_power_off(
    tmp_path: Path, state_home: Path
) -> None:
    async with fake_vm(tmp_path, Plan(boot=(*GOOD_BOOT, {"shutdown": "guest-shutdown"}))) as vm:
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
        assert vm.pages.counters()["accepted"] == 100
        assert vm.journal.count(Kind.ACCEPT) == 100
        assert len(JournalFile(vm.run.events)) == vm.journal.total == 102
        assert vm.last_info is not None
        assert vm.last_info.counters["accepted"] == 100
        assert vm.last_info.devices == {3: "disk0"}
        vm.pages.assert_no_host_faults()
    assert run_folders(state_home) == []


async def test_the_commands_exit_status_comes_from_the_agent(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=POWER_OFF)) as vm:
        outcome = await vm.wait_exit(timeout_s=5)
    assert outcome.guest_status == outcome.exit_code == 7
    assert outcome.failed


async def test_conversions_reach_the_table_and_the_journal(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
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


async def test_many_ranges_go_in_few_commands(tmp_path: Path) -> None:
    ranges = [GpaRange(page * 2 * PAGE_SIZE, PAGE_SIZE) for page in range(8192)]
    async with fake_vm(tmp_path, Plan(), memory="128M") as vm:
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
    tmp_path: Path, ranges: list[GpaRange | str], message: str
) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        if not message:
            await vm.convert(ranges, "shared")
            return
        with pytest.raises(ConfigError) as caught:
            await vm.convert(ranges, "shared")
        assert caught.value.message == message
        assert vm.pages.counts().shared == 0


async def test_bad_words_are_refused_with_the_good_ones(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        with pytest.raises(ConfigError, match="there is no 'encrypted'") as caught:
            await vm.convert("0+4K", "encrypted")
        assert "shared, private" in str(caught.value.hint)
        with pytest.raises(ConfigError):
            await vm.set_policy("allow")


async def test_a_refusal_of_qemu_is_told_in_its_words(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        await vm.poison("4K+4K")
        with pytest.raises(CommandRefused, match="page-poisoned") as caught:
            await vm.convert("0+16K", "shared")
        assert caught.value.command == "restricted-memory-convert"
        assert vm.pages.counts().shared == 0
        with pytest.raises(CommandRefused, match="has not been found"):
            await vm.qmp("no-such-thing", some_argument=1)


async def test_pause_and_cont(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"console": "hello"},)), paused=True) as vm:
        assert (await vm.qmp("query-status"))["running"] is False
        await vm.cont()
        await vm.wait_for("hello")
        await vm.pause()
        assert (await vm.qmp("query-status"))["status"] == "paused"


async def test_what_is_typed_reaches_the_guest(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        await vm.send("echo\n")
        await vm.wait_for("^echo$")


async def test_host_faults_fail_the_assertion_and_are_kept_for_the_report(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"host_fault": 0x5008}, {"console": "done"}))) as vm:
        await vm.wait_for("done")
        await vm.stop()
        with pytest.raises(HostFault, match=r"1 fault\b"):
            vm.pages.assert_no_host_faults()
        assert [int(fault["gpa"]) for fault in vm.journal.first_faults] == [0x5008]


async def test_events_come_in_batches(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(boot=({"records": 5000},)), paused=True) as vm:
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


async def test_qmp_events_arrive_typed(tmp_path: Path) -> None:
    plan = Plan(boot=({"event": ["RESTRICTED_MEMORY_FAULT", {"gpa": 4096}]},))
    async with fake_vm(tmp_path, plan, paused=True) as vm:
        with vm.qmp_events() as events:
            await vm.cont()
            event = await anext(events)
        assert (event.name, event.data["gpa"]) == ("RESTRICTED_MEMORY_FAULT", 4096)
        assert event.time_s > 1e9


async def test_off_needs_no_plugin(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(no_plugin="in QMP"), coco="off") as vm:
        assert vm.qemu_version == "10.0.99"
        with pytest.raises(ConfigError, match="no restricted memory"):
            vm.pages.counts()
        assert (await vm.stop()).end is End.STOPPED


async def test_keep_keeps_the_folder(tmp_path: Path, state_home: Path) -> None:
    async with fake_vm(tmp_path, Plan(), keep=True):
        pass
    (folder,) = run_folders(state_home)
    assert {path.name for path in folder.iterdir()} >= {
        "cmdline", "qemu.log", "qmp.jsonl", "events.bin", "vm.json",
    }  # fmt: skip
    assert not (folder / "qmp.sock").exists()


async def test_a_failing_body_keeps_the_folder(tmp_path: Path, state_home: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with fake_vm(tmp_path, Plan()):
            raise ZeroDivisionError
    assert len(run_folders(state_home)) == 1


async def test_two_vms_live_side_by_side(tmp_path: Path) -> None:
    plan = Plan(boot=({"console": "up"},))
    async with fake_vm(tmp_path, plan) as first, fake_vm(tmp_path, plan) as second:
        await asyncio.gather(first.wait_for("up"), second.wait_for("up"))
        await first.convert("0+4K", "shared")
        assert second.pages.counts().shared == 0
        assert first.run.path != second.run.path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../etc"}, "'../etc' is not a name for a VM"),
        ({"memory": "1000"}, "guest memory must be a positive multiple of 4K (got 1000 bytes)"),
        ({"memory": "64M", "coco": "sgx"}, "coco: there is no 'sgx'"),
        ({"memory": "4M"}, "--memory must be at least 16M (got 4M)"),
        ({"cpus": 0}, "--cpus must be 1 to 255 (got 0)"),
        ({"kernel": "/nowhere/vmlinuz"}, "there is no file /nowhere/vmlinuz"),
        ({"initrd": "/nowhere"}, "--initrd and --append need --kernel"),
        ({"flavour": "x"}, "a VM has no option 'flavour'"),
        ({"net": "bridge"}, "net: there is no 'bridge'"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"coco": "sw-protected", "on_host_access": "share"},
         "--on-host-access share needs layout in-place, but sw-protected has layout split"),
        ({"qemu": Path("/nowhere/qemu")}, "/nowhere/qemu is not a program"),
        ({"run_dir": Path("/proc/nowhere")}, "no run folder /proc/nowhere"),
        ({"ring_records": 100}, "the event ring must hold a power of two of records (got 100)"),
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
