# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of a build: logged, bounded in time, and explained when they fail."""

import os
import select
import sys
import time
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError
from cvmlab.base.steps import Steps


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_output_goes_to_the_log_and_line_by_line_to_the_caller(tmp_path: Path) -> None:
    lines: list[str] = []
    steps = Steps(log=tmp_path / "new" / "log")
    steps.run(
        sh("echo one; echo two >&2; printf three"), what="it", deadline_s=10, on_line=lines.append
    )
    assert lines == ["one", "two"]
    log = steps.log.read_text()
    assert log.startswith("$ /bin/sh -c ")
    assert log.endswith("one\ntwo\nthree")


def test_later_commands_add_to_the_log(tmp_path: Path) -> None:
    steps = Steps(log=tmp_path / "log")
    steps.run(sh("echo one"), what="it", deadline_s=10)
    steps.run(sh("echo two"), what="it", deadline_s=10)
    assert [line for line in steps.log.read_text().splitlines() if line[0] != "$"] == ["one", "two"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "it failed (exit status 3)"),
        ("kill -KILL $$", "it failed (SIGKILL)"),
    ],
)
def test_a_failure_says_how_the_command_ended(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        Steps(log=tmp_path / "log").run(sh(script), what="it", deadline_s=10)
    assert caught.value.message == message
    assert caught.value.hint == f"the whole log is {tmp_path / 'log'}"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("cc1: No space left on device", "free some disk space"),
        ("gcc: fatal error: Killed signal terminated program cc1", "CVMLAB_JOBS=1"),
        ("Temporary failure resolving 'mirror'", "the network is not reachable"),
    ],
)
def test_a_known_failure_comes_with_advice(tmp_path: Path, said: str, advice: str) -> None:
    with pytest.raises(BuildError) as caught:
        Steps(log=tmp_path / "log").run(sh(f'echo "{said}"; exit 1'), what="it", deadline_s=10)
    assert caught.value.hint is not None
    first, *shown = caught.value.hint.splitlines()
    assert advice in first
    assert shown == [f"    {said}"]


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"it failed: cannot run /no/such: No such file"):
        Steps(log=tmp_path / "log").run(["/no/such"], what="it", deadline_s=10)


def test_a_command_past_its_deadline_ends_with_all_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    started = time.monotonic()
    with pytest.raises(BuildError, match=r"it took longer than 0\.3 s"):
        Steps(log=tmp_path / "log").run(
            sh(f'sleep 60 & echo $! >"{child}"; wait'), what="it", deadline_s=0.3
        )
    assert time.monotonic() - started < 10
    assert _ends(int(child.read_text()))


def test_a_command_that_closed_its_output_is_still_waited_for(tmp_path: Path) -> None:
    done = tmp_path / "done"
    Steps(log=tmp_path / "log").run(
        sh(f'exec >&- 2>&-; sleep 0.2; touch "{done}"'), what="it", deadline_s=10
    )
    assert done.exists()


def test_a_failing_listener_ends_the_command(tmp_path: Path) -> None:
    def refuse(_line: str) -> None:
        raise KeyboardInterrupt

    child = tmp_path / "child"
    with pytest.raises(KeyboardInterrupt):
        Steps(log=tmp_path / "log").run(
            sh(f'echo $$ >"{child}"; echo; exec sleep 60'),
            what="it",
            deadline_s=60,
            on_line=refuse,
        )
    assert _ends(int(child.read_text()))


def test_silence_ticks(tmp_path: Path) -> None:
    ticks: list[None] = []
    steps = Steps(log=tmp_path / "log", tick=lambda: ticks.append(None), tick_s=0.02)
    steps.run(sh("sleep 0.2"), what="it", deadline_s=10)
    assert ticks


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    lines: list[str] = []
    steps = Steps(log=tmp_path / "log", env={"ONLY": "this"})
    code = "import os; print(os.environ['ONLY'], 'HOME' in os.environ)"
    steps.run([sys.executable, "-c", code], what="it", deadline_s=10, on_line=lines.append)
    assert lines == ["this False"]


def _ends(pid: int) -> bool:
    """Return whether it ends soon, reaped or not: on a busy machine, a signal takes its time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 5)[0])
    finally:
        os.close(handle)
