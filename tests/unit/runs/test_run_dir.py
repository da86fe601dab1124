# SPDX-License-Identifier: GPL-2.0-or-later
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.runs.run_dir import (
    ProcessId,
    RunDir,
    VmInfo,
    find_running,
    find_runs,
    load_run,
    runs_dir,
)


pytestmark = pytest.mark.usefixtures("state_home")
ME = ProcessId.of(os.getpid())
GONE = ProcessId(os.getpid(), 1)


def publish(
    name: str, qemu: ProcessId, created_s: float = 1.0, chosen: Path | None = None
) -> RunDir:
    run = RunDir.create(name, chosen)
    run.publish(
        VmInfo(
            name=name, coco="generic", memory_bytes=1 << 30, created_s=created_s,
            controller=ME, qemu=qemu, files=None,
        )
    )  # fmt: skip
    return run


def test_folders_of_one_name_do_not_collide(state_home: Path) -> None:
    first, second = RunDir.create("vm"), RunDir.create("vm")
    assert first.path == state_home / "cvmlab" / "runs" / f"vm-{os.getpid()}"
    assert second.path.name == f"vm-{os.getpid()}-2"
    first.close(keep=False)
    assert not first.path.exists()
    assert second.path.exists()


def test_without_a_state_home_it_is_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs_dir() == tmp_path / ".local" / "state" / "cvmlab" / "runs"


def test_a_folder_of_the_users_choice_is_never_removed(tmp_path: Path) -> None:
    run = RunDir.create("vm", tmp_path / "a" / "mine")
    run.write("result.json", "{}")
    run.qmp_socket.touch()
    run.close(keep=False)
    assert run.result.read_text() == "{}"
    assert not run.qmp_socket.exists()


def test_what_an_earlier_run_left_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    RunDir.create("vm", tmp_path).close(keep=True)
    for name in ("events.bin", "qemu.log", "result.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    RunDir.create("vm", tmp_path)
    left = [path.name for path in tmp_path.iterdir() if path.is_file() and path.name[0] != "."]
    assert left == ["notes.txt"]


@pytest.mark.fault("U2")
@pytest.mark.parametrize(
    "name", ["result.json", "console.log", "names.json", "disk0.qcow2", "qemu-1.log", "own.sock"]
)
def test_no_file_of_the_users_is_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=f"has a file {name} that is not of a run of cvmlab"):
        RunDir.create("vm", tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.fault("U2")
def test_a_folder_of_an_earlier_version_is_used_again(tmp_path: Path) -> None:
    info = VmInfo(
        name="vm", coco="generic", memory_bytes=1 << 30, created_s=1.0, controller=GONE, qemu=GONE,
        files=None,
    )  # fmt: skip
    (tmp_path / "vm.json").write_bytes(msgspec.json.encode(info))
    (tmp_path / "result.json").touch()
    RunDir.create("vm", tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.fault("U2")
def test_a_vm_in_a_chosen_folder_is_listed_and_found_by_its_name(tmp_path: Path) -> None:
    run = publish("web", ME, chosen=tmp_path / "mine")
    assert [found.path for found in find_runs()] == [tmp_path / "mine"]
    for name in ("web", "mine", str(tmp_path / "mine")):
        assert find_running(name).path == run.path
    run.close(keep=False)
    assert list(runs_dir().iterdir()) == []
    assert (tmp_path / "mine" / "vm.json").exists()


@pytest.mark.fault("U2")
def test_without_a_state_directory_a_chosen_folder_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    publish("web", ME, chosen=tmp_path / "mine").close(keep=False)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    run = publish("busy", ME)
    with pytest.raises(ConfigError, match="the VM 'busy' is running in"):
        RunDir.create("vm", run.path)


def test_a_path_too_long_for_a_socket_is_refused_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("x" * 100)))
    with pytest.raises(ConfigError, match="too long for a Unix socket"):
        RunDir.create("vm")
    assert list(runs_dir().iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(ConfigError, match="no run folder /proc/x") as caught:
        RunDir.create("vm", Path("/proc/x"))
    assert "--run-dir" in str(caught.value.hint)


def test_a_file_that_cannot_be_written_is_told() -> None:
    run = RunDir.create("vm")
    run.close(keep=False)
    with pytest.raises(ConfigError, match=r"cmdline cannot be written: No such file"):
        run.write("cmdline", "x")


def test_a_start_time_tells_a_process_from_its_namesake() -> None:
    assert ME.alive
    assert not GONE.alive
    assert not ProcessId(2**22 + 1, 5).alive
    with pytest.raises(ProcessLookupError):
        ProcessId.of(2**22 + 1)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not ProcessId.of(child.pid).alive
    child.wait()


def test_runs_are_listed_oldest_first_and_stale_ones_told() -> None:
    publish("new", ME, created_s=2.0)
    publish("old", GONE, created_s=1.0)
    (runs_dir() / "junk").mkdir()
    (runs_dir() / "broken").mkdir()
    (runs_dir() / "broken" / "vm.json").write_text("{")
    found = find_runs()
    assert [(run.info.name, run.running, run.orphaned) for run in found] == [
        ("old", False, False),
        ("new", True, False),
    ]
    assert load_run(runs_dir() / "junk") is None


def test_a_running_vm_is_found_by_name_folder_or_path() -> None:
    run = publish("web", ME)
    publish("db", GONE)
    for name in ("web", run.path.name, str(run.path)):
        assert find_running(name).path == run.path


def test_a_vm_that_is_not_running_is_told_from_an_unknown_one() -> None:
    run = publish("db", GONE)
    with pytest.raises(ConfigError) as caught:
        find_running("db")
    assert caught.value.message == f"no VM 'db' is running; its last run is in {run.path}"
    for name in ("nosuch", "/no/such"):
        with pytest.raises(ConfigError) as caught:
            find_running(name)
        assert caught.value.message == f"no VM {name!r} is running"
        assert caught.value.hint == "`cvmlab ps` lists the VMs that run"


def test_an_ambiguous_name_lists_the_folders() -> None:
    first, second = publish("vm", ME), publish("vm", ME, created_s=2.0)
    with pytest.raises(ConfigError, match="several VMs are called 'vm'") as caught:
        find_running("vm")
    assert caught.value.hint == f"choose one of {first.path.name}, {second.path.name}"
    assert find_running(second.path.name).path == second.path


def test_nothing_ran_yet() -> None:
    assert find_runs() == []
