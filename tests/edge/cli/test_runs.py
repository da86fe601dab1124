# SPDX-License-Identifier: GPL-2.0-or-later
"""Run folders can be listed, removed and pruned, and one that is in use is left alone."""

import json
import os
from pathlib import Path

import pytest

from cvmlab.cli import main
from cvmlab.runs.run_dir import ProcessId, RunDir, VmInfo, runs_dir
from tests.fakes import journals as make


pytestmark = [pytest.mark.usefixtures("state_home"), pytest.mark.fault("U12")]
ME = ProcessId.of(os.getpid())
GONE = ProcessId(os.getpid(), 1)
DAY_S = 24 * 3600


def left(
    name: str, *, owner: ProcessId = GONE, days: float = 0, chosen: Path | None = None
) -> Path:
    """Make a folder as a boot leaves it."""
    run = RunDir.create(name, chosen)
    run.publish(
        VmInfo(
            name=name, coco="tdx", memory_bytes=1 << 30, created_s=1.0, controller=owner,
            qemu=owner, files=None,
        )
    )  # fmt: skip
    run.console_log.write_bytes(bytes(1 << 20))
    os.utime(run.path, (run.path.stat().st_mtime - days * DAY_S,) * 2)
    return run.path


def names() -> list[str]:
    return sorted(path.name.partition("-")[0] for path in runs_dir().iterdir())


def test_all_folders_are_listed_with_how_they_ended(capsys: pytest.CaptureFixture[str]) -> None:
    failed = left("failed", days=3)
    made = make.result(outcome="host-fault", exit_code=81, message="1 host fault")
    make.run_folder(failed, make.small(), made=made)
    os.utime(failed, (1, 1))
    left("running", owner=ME)
    (runs_dir() / "never-1").mkdir()

    assert main(["runs", "list", "--json"]) == 0
    rows = {row["folder"].partition("-")[0]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: row["ended"] for name, row in rows.items()} == {
        "failed": "host-fault (81)", "running": "running", "never": "no result",
    }  # fmt: skip
    assert rows["failed"]["size_bytes"] >= 1 << 20
    assert main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["FOLDER", "PROFILE", "AGE", "SIZE", "ENDED"]
    assert lines[1].startswith(f"failed-{os.getpid()}")


def test_prune_leaves_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    left("old", days=9)
    left("new", days=1)
    left("running", owner=ME)
    RunDir.create("starting")

    assert main(["runs", "prune", "--dry-run"]) == 0
    assert "2 run folders, 2.0 MiB to free" in capsys.readouterr().out
    assert main(["runs", "prune", "--older-than", "7"]) == 0
    assert names() == ["new", "running", "starting"]
    assert main(["runs", "prune", "--keep", "1"]) == 0
    assert names() == ["new", "running", "starting"]
    assert main(["runs", "prune"]) == 0
    assert names() == ["running", "starting"]


def test_a_folder_of_the_users_loses_only_its_link(tmp_path: Path) -> None:
    mine = left("mine", chosen=tmp_path / "mine")
    assert main(["runs", "prune"]) == 0
    assert names() == []
    assert (mine / "vm.json").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("running-{pid}", "running-{pid} is running"),
        ("rnning-{pid}", "run folder: there is no 'rnning-{pid}'"),
        ("../state", "../state is not in"),
    ],
)
def test_what_cannot_be_removed_is_said(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    left("running", owner=ME)
    assert main(["runs", "rm", name.format(pid=os.getpid())]) == 85
    assert capsys.readouterr().err.startswith(f"cvmlab: {message.format(pid=os.getpid())}")
    assert names() == ["running"]


def test_folders_are_removed_by_name_and_by_path() -> None:
    paths = [left("one"), left("two")]
    assert main(["runs", "rm", paths[0].name, str(paths[1])]) == 0
    assert names() == []
