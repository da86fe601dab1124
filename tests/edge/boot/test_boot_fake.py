# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole boots through the command line, against a QEMU that does what the test wants."""

import shlex
import signal
import threading
import time
from pathlib import Path

import pytest

from cvmlab.cli import main
from cvmlab.results import result
from cvmlab.results.result import Outcome
from tests.edge.boot.conftest import Boot, Steps
from tests.fakes.plan import Plan


HELLO: Steps = ({"phase": 1}, {"touch": [16, 100]}, {"phase": 3}, {"touch": [200, 50]})
LOGIN: Steps = (*HELLO, {"agent": "cvmlab hello 6.12.1\n"}, {"console": "login: "})
OFF: Steps = ({"shutdown": "guest-shutdown"},)
BOOTED = "cvmlab/runs/*/events.bin"
PANIC: Steps = ({"console": "\n[    1.000000] Kernel panic - not syncing: VFS\nCall Trace:\n"},)


@pytest.mark.parametrize(
    ("line", "steps", "code", "outcome", "message"),
    [
        ("", (*LOGIN, *OFF), 0, Outcome.OK, "the guest booted and powered off"),
        ("--expect 'log.n'", LOGIN, 0, Outcome.OK, "'log.n' was seen on the console"),
        (
            "",
            (*LOGIN, {"agent": "cvmlab exit 7\n"}, *OFF),
            7,
            Outcome.GUEST_FAILED,
            "the guest's command ended with status 7",
        ),
        (
            "",
            (*LOGIN, {"agent": "cvmlab exit 200\n"}, *OFF),
            79,
            Outcome.GUEST_FAILED,
            "the guest's command ended with status 200",
        ),
        (
            "--max-accepts 149",
            (*LOGIN, *OFF),
            80,
            Outcome.BUDGET_EXCEEDED,
            "150 accepted pages, 149 are allowed",
        ),
        ("--max-accepts 150", (*LOGIN, *OFF), 0, Outcome.OK, "the guest booted and powered off"),
        (
            "--max-accepts kernel=49",
            (*LOGIN, *OFF),
            80,
            Outcome.BUDGET_EXCEEDED,
            "50 accepted pages in phase kernel, 49 are allowed",
        ),
        (
            "--max-faults 0 --max-accepts 0",
            (*LOGIN, {"host_fault": 0x5000}, *OFF),
            81,
            Outcome.HOST_FAULT,
            "1 host fault, 0 are allowed",
        ),
        (
            "--on-host-access stop",
            (*LOGIN, {"host_fault": 0x5000}, {"stopped": {"reason": "host-access", "text": ""}}),
            81,
            Outcome.HOST_FAULT,
            "the host touched private memory, which stopped the VM",
        ),
        (
            "--expect prompt",
            (*LOGIN, *OFF),
            83,
            Outcome.MARKER_NOT_SEEN,
            "never saw 'prompt' on the console",
        ),
        ("", (*LOGIN, {"die": 3}), 84, Outcome.QEMU_DIED, "QEMU died with status 3"),
        (
            "",
            (*LOGIN, {"die": -signal.SIGKILL}),
            84,
            Outcome.QEMU_DIED,
            "QEMU died with signal 9 (SIGKILL)",
        ),
        (
            "",
            (*LOGIN, {"shutdown": "guest-reset"}),
            83,
            Outcome.GUEST_RESET,
            "the guest reset itself before it powered off",
        ),
        (
            "--timeout 0.3",
            LOGIN,
            124,
            Outcome.TIMEOUT,
            "waited 0.3 s for the guest to power off",
        ),
        (
            "",
            (*LOGIN, *PANIC, {"shutdown": "guest-reset"}),
            255,
            Outcome.GUEST_PANIC,
            "the guest panicked: Kernel panic - not syncing: VFS",
        ),
        (
            "--expect prompt",
            (*LOGIN, *PANIC, {"shutdown": "guest-reset"}),
            255,
            Outcome.GUEST_PANIC,
            "the guest panicked: Kernel panic - not syncing: VFS",
        ),
    ],
)
def test_a_boot_ends_in_the_exit_code_of_the_contract(
    boot: Boot, line: str, steps: Steps, code: int, outcome: Outcome, message: str
) -> None:
    status, found = boot(line, steps)

    assert (status, found.exit_code, found.outcome) == (code, code, outcome)
    assert found.message.startswith(message)


def test_a_boot_is_held_against_its_baseline(
    boot: Boot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, measured = tmp_path / "base.json", tmp_path / "measured.json"
    measured.write_text(result.to_json(boot("", (*LOGIN, *OFF))[1]))
    assert main(["baseline", "update", str(file), str(measured), "--pages", "0"]) == 0
    capsys.readouterr()

    assert boot(f"--baseline {file}", (*LOGIN, *OFF))[0] == 0
    code, found = boot(f"--baseline {file}", (*LOGIN, {"touch": [300, 6]}, *OFF))

    assert (code, found.outcome) == (80, Outcome.BUDGET_EXCEEDED)
    expected = "56 accepted pages in phase kernel: the baseline is 50, 55 are allowed"
    assert found.message == expected
    assert found.run_dir is not None
    code, found = boot(f"--baseline {file}", (*LOGIN, {"unpublished": 0}, *OFF))
    assert (code, found.message) == (
        80, "events were dropped, so counts cannot be compared with the baseline",
    )  # fmt: skip


def test_a_result_tells_pages_counters_phases_and_faults(boot: Boot) -> None:
    _, found = boot("", (*LOGIN, {"host_fault": 0x5010}, *OFF))

    assert (found.emulated, found.coco, found.layout) == (True, "generic", "in-place")
    assert (found.kernel, found.firmware, found.memory_bytes) == ("6.12.1", "seabios", 64 << 20)
    assert found.qemu is not None
    assert found.qemu.version == "10.0.99"
    assert (found.pages.total, found.pages.private) == (16384, 150)
    assert (found.counters.accepted, found.counters.host_faults) == (150, 1)
    phases = [(item.name, item.counters.accepted) for item in found.phases]
    assert phases == [("firmware", 100), ("kernel", 50)]
    (fault,) = found.faults
    assert (fault.actor, fault.device, fault.gpa) == ("device", "disk0", 0x5010)
    assert "-no-user-config" in found.command


def test_a_good_boot_leaves_nothing_and_a_bad_one_its_folder(boot: Boot, state_home: Path) -> None:
    assert boot("", (*LOGIN, *OFF))[1].run_dir is None
    assert not list(state_home.glob("cvmlab/runs/*"))

    _, found = boot("--max-accepts 0", (*LOGIN, *OFF))

    assert found.run_dir is not None
    folder = Path(found.run_dir)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"cmdline", "console.log", "qemu.log", "qmp.jsonl", "events.bin", "result.json"}
    assert result.from_json((folder / "result.json").read_bytes()) == found


def test_a_chosen_run_folder_and_kept_ones_stay(boot: Boot, tmp_path: Path) -> None:
    assert boot(f"--run-dir {tmp_path / 'here'}", (*LOGIN, *OFF))[0] == 0
    assert (tmp_path / "here" / "result.json").is_file()
    kept = boot("--keep", (*LOGIN, *OFF))[1].run_dir
    assert kept is not None
    assert (Path(kept) / "events.bin").stat().st_size > 0


def test_without_restricted_memory_there_is_a_result_all_the_same(boot: Boot) -> None:
    code, found = boot("--coco off --expect login", ({"console": "login: "},))

    assert (code, found.coco, found.layout, found.pages.total) == (0, "off", None, 0)


def test_ctrl_c_is_a_clean_end_with_a_result(boot: Boot, state_home: Path) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not any(
            path.stat().st_size for path in state_home.glob(BOOTED)
        ):
            threading.Event().wait(0.02)
        signal.pthread_kill(main_thread, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, found = boot("", LOGIN)
    thread.join()

    assert (code, found.outcome, found.exit_code) == (130, Outcome.INTERRUPTED, 130)
    assert found.counters.accepted > 0


def test_without_a_terminal_the_report_is_plain_text(
    boot: Boot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu = Plan(boot=(*LOGIN, *OFF)).install(tmp_path / "plain")
    line = f"boot -k {tmp_path / 'kernel'} --memory 64M --qemu {qemu} --progress plain"

    assert main(shlex.split(line)) == 0

    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out.startswith("cvmlab boot, profile generic (emulated")
    assert "boot: " in err
