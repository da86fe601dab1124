# SPDX-License-Identifier: GPL-2.0-or-later
"""What every test is held to: it leaves no descriptor and no process."""

import gc
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.require import pytest_runtest_makereport


__all__ = ["pytest_runtest_makereport"]  # a hook: pytest finds it by its name

# A shell starts a background job with Ctrl-C ignored, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Twice a test, in thousands of them: os and not pathlib, which takes four times as long.
def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - see above
        with suppress(OSError):  # the one that lists the folder
            found[name] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - see above
    return found


def _opened_since(before: Mapping[str, str]) -> dict[str, str]:
    return {fd: what for fd, what in _descriptors().items() if before.get(fd) != what}


def _children() -> set[str]:
    listed: set[str] = set()
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - see above
        with suppress(FileNotFoundError):  # a thread that has just ended
            listed.update(Path(f"/proc/self/task/{task}/children").read_text().split())
    return listed


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Compare open descriptors and child processes before and after the test."""
    fds, children = _descriptors(), _children()
    yield
    left = _opened_since(fds)
    if left:
        gc.collect()  # slow, and only of use when a cycle holds a descriptor
        left = _opened_since(fds)
    assert not left, f"descriptors left open: {left}"
    assert not _children() - children, "processes left running"


@pytest.fixture
def state_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run folders go into a folder of the test's own.

    Its path is short, as those of the sockets in it must be: tmp_path is too long under xdist.
    """
    with TemporaryDirectory(prefix="cvmlab-") as folder:
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        yield Path(folder)
