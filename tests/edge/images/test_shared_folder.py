# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder becomes a disk, by the real mke2fs; debugfs reads it back."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cvmlab.base.errors import ImageError
from cvmlab.images.shared_folder import folder_image


_TOOLS = f"{os.defpath}:/usr/sbin:/sbin"
pytestmark = pytest.mark.skipif(
    shutil.which("mke2fs", path=_TOOLS) is None, reason="needs e2fsprogs"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "a folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "note").write_text("hello")
    (folder / "sub" / "large").write_bytes(os.urandom(3 << 20))
    (folder / "link").symlink_to("note")
    return folder


def _debugfs(image: Path, request: str) -> bytes:
    done = subprocess.run(
        [shutil.which("debugfs", path=_TOOLS) or "debugfs", "-R", request, image],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_a_disk_has_what_the_folder_has(folder: Path) -> None:
    image = folder_image(folder)
    assert _debugfs(image, "cat /note") == b"hello"
    assert _debugfs(image, "cat /sub/large") == (folder / "sub" / "large").read_bytes()
    assert b'Fast link dest: "note"' in _debugfs(image, "stat /link")


def test_it_is_made_again_only_when_something_has_changed(folder: Path) -> None:
    first = folder_image(folder)
    assert folder_image(folder) == first
    (folder / "new").write_text("x")
    second = folder_image(folder)
    assert second != first
    assert _debugfs(second, "cat /new") == b"x"


def test_many_small_files_find_room(folder: Path) -> None:
    for number in range(3000):
        (folder / "sub" / f"{number:060}").write_text("x")
    assert _debugfs(folder_image(folder), f"cat /sub/{2999:060}") == b"x"


def test_an_empty_folder_is_a_disk_too(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert b"lost+found" in _debugfs(folder_image(tmp_path / "empty"), "ls /")


def test_a_cache_without_room_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "bin").mkdir()
    failing = folder.parent / "bin" / "mke2fs"
    failing.write_text("#!/bin/sh\necho 'mke2fs: no room' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{failing.parent}:{os.defpath}")
    with pytest.raises(
        ImageError, match=r"the folder .* cannot be made into a disk: mke2fs: no room"
    ):
        folder_image(folder)
    assert list((folder.parent / "cache/cvmlab/share").iterdir()) == []
