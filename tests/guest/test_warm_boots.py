# SPDX-License-Identifier: GPL-2.0-or-later
"""``--warm``, ``--keep-state``, `cvmlab snapshot`, `restore` and `fork`, as a user types them."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from cvmlab.results.result import Result
from cvmlab.vm.vm import Vm
from tests.guest.program import Done, cvmlab, finish, start, wait_for_run, wait_for_text


pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("state_home")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what was kept for warm boots by others; QEMU and packages stay where they are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvmlab"
    mine = tmp_path / "cache" / "cvmlab"
    mine.mkdir(parents=True)
    for entry in cache.iterdir():
        if entry.name != "warm":
            (mine / entry.name).symlink_to(entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def boot(*words: str, command: str = "echo said; exit 7") -> tuple[Done, Result]:
    done = cvmlab("boot", "--exec", command, "--json", "-", *words)
    return done, done.result


@pytest.mark.timeout(300)
@pytest.mark.parametrize("coco", ["tdx", "sev-snp"])
def test_the_second_boot_starts_at_hello(coco: str) -> None:
    _, cold = boot("--coco", coco, "--warm")
    done, warm = boot("--coco", coco, "--warm")
    assert (cold.restored, cold.guest_exit, warm.guest_exit) == (None, 7, 7)
    assert warm.restored is not None
    assert warm.restored.warm
    assert "restored  at hello; counts of firmware and kernel are those of the boot of" in done.err
    assert (warm.kernel, warm.output) == (cold.kernel, "said\n")
    by_name = {phase.name: phase for phase in warm.phases}
    for phase in cold.phases:
        if phase.name != "user":
            assert by_name[phase.name] == phase
    user = warm.phases[
        -1
    ]  # it began in the other boot: both clocks leave out what was between them
    assert user.host_seconds - user.seconds < warm.duration
    _, again = boot("--coco", coco, "--cold")
    assert again.restored is None
    _, other = boot("--coco", coco, "--warm", "--append", "quiet")
    assert other.restored is None
    _, plain = boot("--coco", coco)
    assert plain.restored is None


@pytest.mark.timeout(200)
def test_a_damaged_guest_is_not_started_from(tmp_path: Path) -> None:
    boot("--warm")
    (kept,) = (tmp_path / "cache" / "cvmlab" / "warm").iterdir()
    (kept / "manifest.json").write_text("{")
    said, second = boot("--warm")
    assert (second.restored, second.guest_exit) == (None, 7)
    _, third = boot("--warm")
    assert third.restored is not None, said.err
    with (kept / "state").open("r+b") as file:
        file.write(b"garbage")
    done, fourth = boot("--warm")
    assert (fourth.restored, fourth.guest_exit) == (None, 7)
    assert "the guest kept for warm boots was not used" in done.err
    assert "damaged: state: its digest is" in done.err


@pytest.mark.timeout(120)
def test_a_guest_that_cannot_be_kept_does_not_wait_at_hello() -> None:
    _, found = boot("--warm", "--coco", "off")
    assert (found.restored, found.guest_exit) == (None, 7)


@pytest.mark.timeout(200)
def test_a_guest_that_panicked_is_kept_and_comes_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = cvmlab(
        "boot", "--coco", "tdx", "--keep-state", "--run-dir", str(run), "--append", "panic=0",
        "--exec", "echo before; echo c >/proc/sysrq-trigger",
    )  # fmt: skip
    assert done.code == 255, done.err

    async def look() -> None:
        async with Vm.restore(run / "state") as vm:
            assert (await vm.qmp("query-status"))["status"] == "paused"
            assert "Kernel panic - not syncing: sysrq triggered crash" in vm.console.text
            assert vm.pages.counts().private > 1000

    asyncio.run(look())
    again = cvmlab("boot", "--coco", "tdx", "--run-dir", str(run), "--exec", "true")
    assert again.code == 0, again.err
    assert not (run / "state").exists()


@pytest.mark.timeout(200)
def test_save_list_restore_fork_and_remove(tmp_path: Path) -> None:
    command = "echo up; while [ ! -e /tmp/go ]; do sleep 0.1; n=$((n+1)); [ $n -gt 150 ] && break; done; exit 5"
    with start("boot", "--coco", "sev-snp", "--name", "one", "--exec", command, "--keep") as parent:
        run = wait_for_run("one")
        wait_for_text(run.path / "exec.log", "up")
        saved = cvmlab("snapshot", "save", "one", "early", "--compress", "--json")
        assert saved.code == 0, saved.err
        assert json.loads(saved.out)["standstill_s"] < 10
        forked = cvmlab("fork", "one", "-n", "2")
        assert finish(parent).code == 5
    assert forked.code == 5, forked.err
    assert forked.out.count("restored  from") == 2
    listed = json.loads(cvmlab("snapshot", "list", "--json").out)
    assert [(row["name"], row["coco"], row["problem"]) for row in listed] == [
        ("early", "sev-snp", None)
    ]
    restored = cvmlab("restore", "early", "--name", "two")
    assert restored.code == 5, restored.err
    assert "restored  from" in restored.out
    twice = cvmlab("restore", "nowhere")
    assert (twice.code, "is no snapshot" in twice.err) == (85, True)
    assert cvmlab("snapshot", "rm", "early").code == 0
    assert cvmlab("snapshot", "rm", "early").code == 85
    shutil.rmtree(run.path)
