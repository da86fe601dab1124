# SPDX-License-Identifier: GPL-2.0-or-later
"""The facade for code without async."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused, ConfigError, PluginError, VmExited
from cvmlab.memory.states import PageState
from cvmlab.vm.outcome import End
from cvmlab.vm.sync import SyncVm
from tests.fakes.plan import Plan
from tests.fakes.vms import fake_options, run_folders


pytestmark = pytest.mark.usefixtures("state_home")
BOOT = ({"touch": [0, 10]}, {"console": "login: "}, {"agent": "cvmlab hello 6.12\n"})


def sync_vm(folder: Path, plan: Plan, **options: object) -> SyncVm:
    return SyncVm(**fake_options(folder, plan, **options))


def ctrl_c_after(seconds: float) -> threading.Timer:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    return timer


def test_a_session_without_async(tmp_path: Path, state_home: Path) -> None:
    with sync_vm(tmp_path, Plan(boot=BOOT), name="lab") as vm:
        vm.wait_for("login:")
        assert vm.wait_hello() == "6.12"
        assert vm.pages.counts().private == 10
        assert vm.convert("1M+8K", "shared") == 2
        assert vm.accept("2M+4K") == vm.poison("3M+4K") == vm.discard("3M+4K") == 1
        vm.set_policy("zero")
        assert vm.query().policy == "zero"
        assert vm.query_runs()[0].state is PageState.PENDING
        vm.pause()
        assert vm.qmp("query-status")["status"] == "paused"
        vm.cont()
        vm.send("hello\n")
        vm.wait_for("hello")
        assert (vm.name, vm.kernel_release) == ("lab", "6.12")
        assert "login:" in vm.console_text
        assert vm.stop().end is End.STOPPED
        assert vm.wait_exit().end is End.STOPPED
        assert vm.journal.total > 10
        assert vm.last_info is not None
    assert vm.outcome is not None
    assert not any(thread.name.startswith("cvmlab") for thread in threading.enumerate())
    assert run_folders(state_home) == []


def test_errors_come_out_as_they_are(tmp_path: Path) -> None:
    with sync_vm(tmp_path, Plan()) as vm:
        vm.poison("4K+4K")
        with pytest.raises(CommandRefused):
            vm.convert("4K+4K", "shared")


def test_a_vm_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(PluginError), sync_vm(tmp_path, Plan(no_plugin="at start")):
        pass


def test_a_vm_that_was_left_or_never_entered(tmp_path: Path) -> None:
    vm = sync_vm(tmp_path, Plan())
    assert not vm.started
    with pytest.raises(VmExited, match="the VM is not running"):
        vm.query()
    with vm:
        pass
    with pytest.raises(VmExited, match="the VM is not running"):
        vm.query()


def test_an_error_of_the_body_is_the_bodys(tmp_path: Path, state_home: Path) -> None:
    with pytest.raises(ZeroDivisionError), sync_vm(tmp_path, Plan()):
        raise ZeroDivisionError
    (folder,) = run_folders(state_home)
    assert (folder / "cmdline").exists()


def test_a_task_of_the_vm_that_fails_is_told_in_the_call_it_ends(tmp_path: Path) -> None:
    plan = Plan(boot=({"write_ring": [64, "ffffff"]},))
    vm = sync_vm(tmp_path, plan)

    def work() -> None:
        with vm:
            vm.wait_exit(timeout_s=5)

    with pytest.raises(PluginError, match="claims to hold 16777215 records"):
        work()


def test_ctrl_c_in_a_call_leaves_nothing(tmp_path: Path, state_home: Path) -> None:
    def work() -> None:
        with sync_vm(tmp_path, Plan(on={"quit": "hang"}), stop_timeout_s=5.0) as vm:
            ctrl_c_after(0.1)
            vm.wait_for("never", timeout_s=20)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert run_folders(state_home) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path, state_home: Path) -> None:
    timer = ctrl_c_after(0.2)
    with pytest.raises(KeyboardInterrupt), sync_vm(tmp_path, Plan(no_greeting=True)):
        pass
    timer.join()
    assert run_folders(state_home) == []


def test_bad_options_start_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="a VM has no option 'colour'"):
        SyncVm(colour="red")
    assert threading.active_count() == before


@pytest.mark.fault("U7")
def test_a_vm_is_entered_once(tmp_path: Path) -> None:
    vm = sync_vm(tmp_path, Plan())
    with vm, pytest.raises(ConfigError, match="this VM was entered before"):
        vm.__enter__()
    with pytest.raises(ConfigError, match="this VM was entered before"):
        vm.__enter__()


@pytest.mark.fault("U7")
def test_counts_after_the_end_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with sync_vm(tmp_path, Plan(boot=BOOT)) as vm:
        vm.wait_for("login:")
    for read in (vm.pages.counts, vm.pages.counters, lambda: vm.pages.phase):
        with pytest.raises(VmExited, match="the VM has ended, and its counts with it") as caught:
            read()
        assert "inside the `with` block" in str(caught.value.hint)


NEVER_LEFT = """
import sys
from cvmlab import SyncVm
vm = SyncVm(qemu=sys.argv[1], memory="64M")
vm.__enter__()
print(vm.query().policy, vm.run.path)
"""


@pytest.mark.fault("U7")
def test_a_vm_that_is_never_left_ends_with_the_program(tmp_path: Path, state_home: Path) -> None:
    qemu = Plan().install(tmp_path / "fake")
    done = subprocess.run(
        [sys.executable, "-c", NEVER_LEFT, str(qemu)], capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("deny ")
    assert run_folders(state_home) == []
