# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands that act on a VM of another terminal: here, of another thread."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cvmlab.cli import main
from cvmlab.results.callers import NamedChain
from cvmlab.vm.outcome import End
from cvmlab.vm.sync import SyncVm
from tests.fakes import journals as make
from tests.fakes.plan import Plan


BOOT = ({"phase": 1}, {"touch": [0, 10]}, {"host_fault": 0x5010}, {"console": "login: "})


@pytest.fixture
def vm(tmp_path: Path, state_home: Path) -> Iterator[SyncVm]:
    """A VM called ``lab`` that runs."""
    qemu = Plan(boot=BOOT).install(tmp_path / "fake")
    with SyncVm(qemu=qemu, memory="64M", name="lab", stop_timeout_s=0.5) as running:
        running.wait_for("login:")
        yield running


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> "Say":
    return Say(capsys)


class Say:
    """Run a command line; return what it printed, having checked that it succeeded."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> str:
        code = main(words)
        out, err = self._capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    def fails(self, *words: str) -> tuple[int, str]:
        code = main(words)
        return code, self._capsys.readouterr().err


def test_ps_shows_what_runs_and_where(vm: SyncVm, say: Say) -> None:
    header, line = say("ps").splitlines()

    assert header.split()[:3] == ["NAME", "PROFILE", "MEMORY"]
    assert line.split()[:3] == ["lab", "generic", "64M"]
    (one,) = json.loads(say("ps", "--json"))
    assert one["run_dir"] == str(vm.run.path)


def test_query_shows_pages_and_counters(vm: SyncVm, say: Say) -> None:
    text = say("query")

    assert "generic, in-place, 64M, phase firmware, host access: deny" in text
    assert "  host-faults                    1" in text
    document = json.loads(say("query", "lab", "--json"))
    assert document["pages"]["private"] == 10
    assert document["counters"]["host-faults"] == 1


def test_convert_changes_pages_and_the_map_shows_it(vm: SyncVm, say: Say) -> None:
    assert say("convert", "lab", "1M+8K", "3M-4M", "--to", "shared") == "258 pages are now shared\n"
    done = say("convert", "lab", "1M+4K", "--to", "private", "--json", "--content", "preserve")
    assert json.loads(done) == {"pages": 1}

    picture = say("map", "--width", "64", "--height", "4")

    rows = [line for line in picture.splitlines() if line.startswith("0x")]
    assert rows[0].startswith("0x000000000000 p...s.......SSSS...")
    assert picture.isascii()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("1M+100",), 85, "0x100000+100 does not start and end on a 4 KiB page (rule: aligned)"),
        (("1M+8K", "1M+4K"), 85, "0x100000+4K and 0x100000+8K overlap (rule: disjoint)"),
        (
            ("1G+4K",),
            85,
            "0x40000000+4K is not inside guest RAM, which is 0x0+64M (rule: in-range)",
        ),
    ],
)
def test_bad_ranges_are_refused_and_change_nothing(
    vm: SyncVm, say: Say, words: tuple[str, ...], code: int, message: str
) -> None:
    before = vm.pages.counts()

    found, err = say.fails("convert", "lab", *words, "--to", "shared")

    assert (found, err) == (
        code,
        f"cvmlab: {message}\nhint: `cvmlab query` shows where guest RAM is\n",
    )
    assert vm.pages.counts() == before


def test_events_are_printed_with_names_and_filtered(vm: SyncVm, say: Say) -> None:
    lines = say("events").splitlines()

    assert lines[0].endswith("phase firmware begins")
    assert any("device disk0" in line and "0x5010" in line for line in lines)
    (fault,) = say("events", "lab", "--kind", "host-fault", "--json").splitlines()
    assert json.loads(fault)["device"] == "disk0"
    assert say.fails("events", "--kind", "host-faul") == (
        85,
        "cvmlab: --kind: there is no 'host-faul'\nhint: did you mean host-fault? known are accept, "
        "convert, discard, poison, load, host-fault, guest-fault, violation, phase, reset, "
        "invalidate, policy, exit, checkpoint, rewind, snapshot, allowed-access\n",
    )


def test_following_events_ends_with_the_vm(vm: SyncVm, say: Say) -> None:
    timer = threading.Timer(0.5, vm.stop)
    timer.start()
    try:
        lines = say("events", "--follow", "--kind", "accept").splitlines()
    finally:
        timer.join()

    assert lines


def test_raw_qmp_prints_json_and_refusals_as_errors(vm: SyncVm, say: Say) -> None:
    assert json.loads(say("qmp", "lab", "query-status"))["status"] == "running"
    code, err = say.fails("qmp", "lab", "frobnicate", "{}")
    assert code == 85
    assert err.startswith("cvmlab: QEMU refused frobnicate: The command frobnicate has not been")


def test_stop_ends_the_vm_as_its_owner_sees(vm: SyncVm, say: Say) -> None:
    assert say("stop") == ""
    assert vm.wait_exit().end is End.STOPPED
    assert say.fails("stop")[0] == 85


def test_with_two_vms_one_has_to_be_named(vm: SyncVm, say: Say, tmp_path: Path) -> None:
    qemu = Plan().install(tmp_path / "other")
    with SyncVm(qemu=qemu, memory="64M", name="second", stop_timeout_s=0.5):
        code, err = say.fails("query")
        assert code == 85
        assert err.startswith("cvmlab: 2 VMs are running\nhint: say which: lab-")
        assert "64M" in say("query", "second")


def test_the_journal_of_a_run_that_ended_can_be_read(tmp_path: Path, say: Say) -> None:
    qemu = Plan(boot=BOOT).install(tmp_path / "fake")
    folder = tmp_path / "run"
    with SyncVm(qemu=qemu, memory="64M", run_dir=folder, stop_timeout_s=0.5) as running:
        running.wait_for("login:")

    assert "phase firmware begins" in say("events", str(folder), "--follow")


@pytest.mark.fault("V3")
def test_events_blame_the_caller_and_not_the_leaf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chains = {1: NamedChain(("__tdcall_saved_ret+0x5", "swiotlb_init+0x30", "mem_init+0x1"))}
    names = replace(make.NAMES, chains=chains, thin=("__tdcall*",))
    records = make.journal(*(make.converted(9, 1, 1),))
    records["stack"] = 1
    folder = make.run_folder(tmp_path / "run", records, names=names)
    assert main(["events", str(folder)]) == 0
    assert "in swiotlb_init+0x30" in capsys.readouterr().out
    assert main(["events", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["function"] == "swiotlb_init+0x30"


@pytest.mark.fault("V12")
def test_names_and_what_was_dropped_are_told_after_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make.result(counters={"events_dropped": 7})
    folder = make.run_folder(tmp_path / "run", make.small(), made=made)

    assert main(["events", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert any("device net0-pci" in line for line in out.splitlines())
    assert "in set_memory_decrypted+0xa0" in out
    assert err == "cvmlab: 7 events were dropped and are not in this list\n"
    assert main(["events", str(folder), "--kind", "convert", "--json"]) == 0
    names = {json.loads(line).get("function") for line in capsys.readouterr().out.splitlines()}
    assert "set_memory_decrypted+0xa0" in names
