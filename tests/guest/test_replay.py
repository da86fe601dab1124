# SPDX-License-Identifier: GPL-2.0-or-later
"""``--record`` and `cvmlab replay`, as a user types them."""

import os
import random
import signal
from pathlib import Path

import pytest

from cvmlab.replays.recorder import Comparison
from cvmlab.replays.replay_folder import ReplayFolder
from tests.guest.devices import TSM_REPORT
from tests.guest.program import Done, cvmlab, finish, start, wait_for_run, wait_for_text


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]

BOOTS = int(os.environ.get("CVMLAB_REPLAYS", "20"))
PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]


def record(folder: Path, *words: str, command: str) -> Done:
    return cvmlab(
        "boot", "debian", "--record", str(folder), "--exec", command, "--json", "-", *words
    )


@pytest.mark.timeout(300)
def test_a_recorded_boot_is_executed_again(tmp_path: Path) -> None:
    """With a disk, the network card, a quote, random numbers, the time of day and a failing command."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(5).randbytes(1 << 20))
    command = (
        f"({TSM_REPORT} && sha256sum outblob); sha256sum /dev/vda; "
        "dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync 2>/dev/null; sha256sum /dev/vda; "
        "cat /sys/class/net/eth0/address; cat /proc/sys/kernel/random/uuid; date +%s.%N; exit 3"
    )
    first = record(
        tmp_path / "rec", "--coco", "tdx", "--quotes", "--net", "user", "--disk", str(disk),
        command=command,
    )  # fmt: skip
    assert first.code == 3, first.err
    again = cvmlab("replay", str(tmp_path / "rec"))
    assert again.code == 3, again.err
    assert "replayed: the journals are identical" in again.out
    said = (first.result.output or "").splitlines()
    assert len(said) == 6
    for line in said:
        assert line in again.out
    until = cvmlab("replay", str(tmp_path / "rec"), "--until", "convert")
    assert until.code == 0, until.err
    assert "the guest was stopped as asked" in until.out
    assert "identical so far" in until.out
    assert ReplayFolder.open(tmp_path / "rec").manifest.records > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("boot", "--record", "{}/new", "--cpus", "2"), "a recorded guest has one CPU"),
        (("boot", "--record", "{}/new", "--coco", "off"), "nothing to record"),
        (("boot", "--record", "{}/new", "--gdb"), "gdb is for the replay"),
        (("boot", "--record", "{}/new", "--warm"), "--record excludes --warm"),
        (("boot", "--record", "{}"), "no part of a recording, such as mine"),
        (("replay", "{}"), "is no recording"),
        (("replay", "{}/none"), "is no recording"),
    ],
)
def test_what_cannot_be_recorded_or_replayed_says_so(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "mine").write_text("no kernel")
    done = cvmlab(*(word.format(tmp_path) for word in words))
    assert done.code == 85, done.err
    assert message in done.err
    assert (tmp_path / "mine").read_text() == "no kernel"


@pytest.mark.timeout(200)
def test_a_recording_that_was_cut_off_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    words = ("boot", "debian", "--coco", "generic", "--record", str(folder), "--name", "cut")
    with start(*words, "--exec", "echo it runs; sleep 100") as process:
        found = wait_for_run("cut")
        wait_for_text(found.path / "exec.log", "it runs")
        os.kill(found.info.qemu.pid, signal.SIGKILL)
        done = finish(process)
    assert done.code == 84, done.err
    assert f"nothing was recorded in {folder}: QEMU was killed" in done.err
    assert "a recording that was not finished" in cvmlab("replay", str(folder)).err


@pytest.mark.timeout(200)
def test_a_replay_is_checked_before_it_starts(tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    assert record(folder, "--coco", "generic", command="true").code == 0
    manifest = folder / "recording.json"
    good = manifest.read_text()
    build = ReplayFolder.open(folder).manifest.qemu_build
    for text, words, message in (
        (good, ("--until", "convert here"), "is not a size"),
        (good, ("--until", "no_such_function"), "no function"),
        (good, ("--until", "record 0"), "numbered from 1"),
        (good, ("--until", "start_kernel"), "record the boot with --debuggable"),
        (good, ("--gdb",), "shows a debugger nothing"),
        (good.replace(build, "another"), (), "was recorded by another QEMU"),
    ):
        manifest.write_text(text)
        done = cvmlab("replay", str(folder), *words)
        assert done.code == 85, (words, done.err)
        assert message in done.err, (words, done.err)
    manifest.write_text(good)
    done = cvmlab("replay", str(folder), "--until", "fault")
    assert done.code == 83, done.err
    assert "the guest ended before the moment 'fault'" in done.out
    log = folder / "execution.log"
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    assert "damaged: execution.log" in cvmlab("replay", str(folder)).err


@pytest.mark.long
@pytest.mark.timeout(BOOTS * 200)
def test_many_boots_replay_with_the_same_journal(tmp_path: Path) -> None:
    for number in range(BOOTS):
        folder, coco = tmp_path / f"rec{number}", PROFILES[number % len(PROFILES)]
        command = f"head -c {number}M /dev/urandom | sha256sum; date +%N"
        first = record(folder, "--coco", coco, command=command)
        assert first.code == 0, first.err
        run = tmp_path / f"run{number}"
        again = cvmlab("replay", str(folder), "--run-dir", str(run))
        assert again.code == 0, (coco, again.err)
        found = Comparison.of(folder / "events.bin", run / "events.bin")
        assert found.is_identical, (coco, found)
        for line in (first.result.output or "").splitlines():
            assert line in again.out, coco
