# SPDX-License-Identifier: GPL-2.0-or-later
"""Only one process at a time builds something in the cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, DeadlineExceeded
from cvmlab.base.locks import exclusive


HOLDER = """
import sys
from pathlib import Path
from cvmlab.base.locks import exclusive
with exclusive(Path(sys.argv[1]), "build", deadline_s=10):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "lock"


def holder(lock_file: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, os.fspath(lock_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_stays_taken_ends_the_wait(
    lock_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(lock_file) as process:
        with (
            pytest.raises(DeadlineExceeded, match=r"waited 0\.1 s for another build to end"),
            exclusive(lock_file, "build", deadline_s=0.1),
        ):
            pass
        process.communicate("", timeout=30)
    assert capsys.readouterr().err == "cvmlab: another build is running; waiting for it\n"


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_lock_is_free_when_its_holder_ends(lock_file: Path, end: str) -> None:
    with holder(lock_file) as process:
        if end == "kill":
            process.kill()
        process.communicate("", timeout=30)
    with exclusive(lock_file, "build", deadline_s=0.1):
        pass
    with exclusive(lock_file, "build", deadline_s=0.1):
        pass


def test_a_failure_inside_releases_the_lock(lock_file: Path) -> None:
    with pytest.raises(KeyError), exclusive(lock_file, "build", deadline_s=0.1):
        raise KeyError
    with exclusive(lock_file, "build", deadline_s=0.1):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BuildError, match=r"cannot write .*file") as caught,
        exclusive(tmp_path / "file" / "lock", "build", deadline_s=0.1),
    ):
        pass
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")
