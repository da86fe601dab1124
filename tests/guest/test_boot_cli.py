# SPDX-License-Identifier: GPL-2.0-or-later
"""`cvmlab boot` with real kernels."""

import hashlib
import random
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cvmlab.boot.plan import plan
from cvmlab.boot.request import Request
from cvmlab.results.result import Outcome
from cvmlab.vm.sync import SyncVm
from tests.guest.program import cvmlab, start, wait_for_run, wait_for_text


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

DISK_BYTES = 4 << 20


def test_the_default_guest_boots_private_and_untouched() -> None:
    done = cvmlab("boot", "--json", "-", "--max-faults", "0")

    found = done.result
    assert (done.code, found.outcome, found.exit_code, found.emulated) == (0, Outcome.OK, 0, True)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*cloud-amd64", found.kernel or "")
    assert (found.pages.private + found.pages.pending) / found.pages.total > 0.99
    assert (found.pages.shared, found.counters.host_faults, found.faults) == (0, 0, ())
    assert found.counters.events_dropped == 0
    assert [phase.name for phase in found.phases][-3:] == ["firmware", "kernel", "user"]
    assert sum(phase.counters.accepted for phase in found.phases) == found.counters.accepted
    assert all(phase.host_seconds > 0 for phase in found.phases[-3:])
    assert done.err.startswith("cvmlab boot, profile generic (emulated") or "OK: " in done.err


def test_a_commands_output_is_on_the_console_and_its_status_is_ours(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = cvmlab("boot", "--exec", "uname -s; exit 42", "--run-dir", str(folder))

    assert done.code == 42
    assert "FAILED: the guest's command ended with status 42 (exit code 42)" in done.out
    assert "Linux" in (folder / "console.log").read_text().splitlines()
    names = {path.name for path in folder.iterdir()}
    assert names >= {"cmdline", "console.log", "qemu.log", "qmp.jsonl", "events.bin", "result.json"}


def test_verbose_shows_the_console_on_stderr() -> None:
    done = cvmlab("boot", "--exec", "echo from-the-guest", "-v")

    assert (done.code, "from-the-guest" in done.err) == (0, True)


def test_waiting_for_a_marker_stops_there(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    words = ("--exec", "echo mark-$((6*7)); sleep 1000", "--expect", r"^mark-\d+$")
    done = cvmlab("boot", *words, "--timeout", "12", "--junit", str(junit), "--json", "-")

    # With --exec the command's end is waited for, too: here it never comes.
    assert (done.code, done.result.outcome) == (124, Outcome.TIMEOUT)
    (failure,) = ET.parse(junit).getroot().iter("failure")
    assert failure.get("type") == "timeout"


def test_a_marker_of_the_kernel_is_enough() -> None:
    done = cvmlab("boot", "--append", "loglevel=7", "--expect", "Run /init as init process")

    assert done.code == 0
    assert "was seen on the console (exit code 0)" in done.out


def test_a_guest_panic_is_255_with_its_call_trace() -> None:
    done = cvmlab("boot", "--append", "root=/dev/nothing rootwait=1 rdinit=/none init=/none")

    assert done.code == 255
    assert "FAILED: the guest panicked: Kernel panic - not syncing" in done.out
    assert "Call Trace" in done.out or "panic" in done.out


def test_budgets_by_phase_are_held() -> None:
    done = cvmlab(
        "boot", "--max-accepts", "user=100000", "--max-accepts", "kernel=1", "--json", "-"
    )

    assert (done.code, done.result.outcome) == (80, Outcome.BUDGET_EXCEEDED)
    assert [line.kept for line in done.result.budgets] == [True, False]


def test_dry_run_prints_what_would_run() -> None:
    done = cvmlab("boot", "--dry-run")

    argv = shlex.split(done.out.replace("\\\n", " "))
    assert done.code == 0
    assert "memory-backend-restricted" in argv[argv.index("-object") + 1]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(random.Random(1).randbytes(DISK_BYTES))
    return path


DEVICES = {"virtio-blk": "vda", "nvme": "nvme0n1", "ahci": "sda"}


@pytest.mark.parametrize("interface", DEVICES)
def test_a_disk_works_under_share_and_each_page_is_attributed(
    interface: str, disk: Path, tmp_path: Path
) -> None:
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    run = tmp_path / "run"
    done = cvmlab(
        *("boot", "debian-devices", "--disk", str(disk), "--disk-interface", interface),
        *("--on-host-access", "share", "--run-dir", str(run), "--json", "-"),
        *("--exec", f"sha256sum /dev/{DEVICES[interface]}"),
    )

    assert done.code == 0
    assert digest in (run / "console.log").read_text()
    found = done.result
    by_device: Counter[str | None] = Counter()
    for item in found.conversions:  # a line for each caller
        if item.actor == "device":
            by_device[item.device] += item.pages
    assert found.counters.host_faults == 0
    assert sum(by_device.values()) == found.counters.to_shared == found.pages.shared
    assert max(by_device.values()) >= DISK_BYTES // 4096
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("interface", DEVICES)
def test_a_denied_disk_is_explained(interface: str, disk: Path) -> None:
    done = cvmlab(
        *("boot", "debian-devices", "--disk", str(disk), "--disk-interface", interface),
        *("--timeout", "40", "--max-faults", "0", "--json", "-"),
        *("--exec", f"timeout 10 dd if=/dev/{DEVICES[interface]} of=/dev/null; true"),
    )

    found = done.result
    assert found.exit_code == done.code
    assert done.code in (81, 124, 255)
    assert found.counters.host_faults > 0
    assert {fault.actor for fault in found.faults} == {"device"}
    assert all(fault.verdict == "deny" and fault.device for fault in found.faults)
    assert "Host faults" in done.err
    assert "--on-host-access share" in done.err


@pytest.mark.parametrize("image", ["debian", "debian-bookworm", "debian-backports"])
def test_names_of_functions_are_those_of_the_running_kernel(image: str) -> None:
    some = "sed -n '20000,20060p;20060q' /proc/kallsyms"  # all of it takes half a minute
    command = f"echo 0 > /proc/sys/kernel/kptr_restrict; {some}"
    planned = plan(Request.of(image=image, exec=command))
    with SyncVm(planned.spec, setting=replace(planned.setting, keep=False)) as vm:
        assert vm.wait_exit(timeout_s=400).guest_status == 0
        console = vm.console_text
    kernel = planned.symbols.get()
    assert kernel is not None

    live: dict[int, set[str]] = {}
    for line in console.splitlines():
        if match := re.fullmatch(r"([0-9a-f]{16}) [tTwW] (\w+)", line.strip()):
            live.setdefault(int(match[1], 16), set()).add(match[2])
    assert len(live) > 20
    for address, names in live.items():
        assert kernel.resolve(address) in {f"{name}+0x0" for name in names}
        assert kernel.resolve(address + 1) in {f"{name}+0x1" for name in names}


def test_another_terminal_queries_converts_draws_and_stops() -> None:
    words = ("--name", "lab", "--exec", "echo here-it-is; sleep 1000", "--json", "-")
    with start("boot", *words) as process:
        run = wait_for_run("lab")
        wait_for_text(run.path / "console.log", "here-it-is")

        assert cvmlab("ps").out.splitlines()[1].split()[0] == "lab"
        assert cvmlab("convert", "lab", "512M+2M", "--to", "shared").out == (
            "512 pages are now shared\n"
        )
        assert cvmlab("query", "--json").json["pages"]["shared"] == 512
        assert "s" in cvmlab("map", "--width", "32", "--height", "8").out.lower()
        assert cvmlab("convert", "lab", "512M+2M", "--to", "private").code == 0
        events = cvmlab("events", "--kind", "convert").out.splitlines()
        assert len(events) == 2
        assert cvmlab("qmp", "lab", "query-status").json["running"] is True
        assert cvmlab("stop").code == 0
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 83
    assert '"the VM was stopped from outside before its command had ended"' in out
