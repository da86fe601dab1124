# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong with real VMs: one sentence, a hint, the documented exit code, nothing left."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError
from cvmlab.qemu.build import stock_qemu_binary
from cvmlab.results.result import Outcome
from cvmlab.runs.run_dir import find_runs
from tests.guest.program import (
    Done,
    cvmlab,
    finish,
    qemu_is_gone,
    start,
    wait_for_run,
    wait_for_text,
)


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

SLEEPY = ("boot", "--name", "victim", "--exec", "echo here-it-is; sleep 1000", "--json", "-")


def told_well(done: Done) -> bool:
    """One sentence and a hint, and no traceback."""
    lines = [line for line in done.err.splitlines() if line.startswith(("cvmlab: ", "hint: "))]
    return "Traceback" not in done.err and [line.split(":")[0] for line in lines[-2:]] == [
        "cvmlab",
        "hint",
    ]


def test_a_qemu_without_the_plugin_is_refused() -> None:
    try:
        stock = stock_qemu_binary(build=False)
    except BuildError:
        pytest.skip("there is no unpatched QEMU: `cvmlab build --stock` makes it")
    done = cvmlab("boot", "--qemu", str(stock), "--progress", "none")

    assert (done.code, told_well(done)) == (84, True)
    assert "lacks the restricted-memory plugin" in done.err


def test_qemu_killed_is_84_and_named_in_the_report() -> None:
    with start(*SLEEPY) as process:
        run = wait_for_run("victim")
        wait_for_text(run.path / "console.log", "here-it-is")
        os.kill(run.info.qemu.pid, signal.SIGKILL)
        done = finish(process)

    assert (done.code, done.result.outcome) == (84, Outcome.QEMU_DIED)
    assert "QEMU died with signal 9 (SIGKILL)" in done.err
    assert str(run.path) in done.err
    assert done.result.counters.accepted > 0


def test_a_killed_controller_takes_qemu_with_it() -> None:
    with start(*SLEEPY) as process:
        run = wait_for_run("victim")
        wait_for_text(run.path / "console.log", "here-it-is")
        process.kill()
        process.wait(10)

    assert qemu_is_gone(run)
    assert cvmlab("ps", "--json").json == []
    done = cvmlab("query", "victim")
    assert (done.code, told_well(done)) == (85, True)


@pytest.mark.parametrize("delay_s", [0.3, 0.6, 0.9, 1.2, 1.6, 2.5, 4.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_everything(delay_s: float, number: signal.Signals) -> None:
    with start(*SLEEPY) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.send_signal(number)
        done = finish(process)

    # On a busy machine, Python itself may still be starting: then it prints its own last words.
    assert "Traceback" not in done.err or done.err.startswith("Fatal Python error: init")
    assert done.code in (130, 1, -number) if "Fatal" in done.err else done.code in (130, -number)
    assert not any(run.running for run in find_runs())


def test_a_full_disk_is_said_and_leaves_nothing_running(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux) to mount a small disk")
    place = tmp_path / "small"
    place.mkdir()
    script = 'mount -t tmpfs -o size=256k small "$1" && shift && exec "$@"'
    namespace = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*namespace, str(place), "true"], check=False, timeout=30).returncode:
        pytest.skip("this machine lets nobody mount a small disk in a user namespace")
    boot = (sys.executable, "-m", "cvmlab", "boot", "--run-dir", str(place), "--progress", "none")
    ran = subprocess.run(
        [*namespace, str(place), *boot], capture_output=True, text=True, timeout=120, check=False
    )

    done = Done(ran.returncode, ran.stdout, ran.stderr)
    assert (done.code, told_well(done)) == (85, True)
    assert "No space left on device" in done.err
    assert not any(run.running for run in find_runs())
