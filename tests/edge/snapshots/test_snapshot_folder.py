# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot on disk is whole or not there, whatever happens to the one who writes it."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.snapshots.manifest import MANIFEST, BaseDisk
from cvmlab.snapshots.snapshot_folder import SnapshotFolder, being_written, store_file
from cvmlab.snapshots.store import listed, place_of, remove, require_free, snapshots_dir
from tests.edge.snapshots.small_snapshot import FILES, manifest_of


KILLS = 25


def written(place: Path, disks: tuple[BaseDisk, ...] = ()) -> Path:
    with being_written(place) as folder:
        for name in FILES:
            (folder / name).write_bytes(name.encode() * 1000)
        stored = {name: store_file(folder, name, compress=False) for name in FILES}
        (folder / MANIFEST).write_bytes(manifest_of(stored, disks).encode())
    return place


@pytest.mark.timeout(120)
def test_a_killed_writer_leaves_the_old_snapshot_or_the_new_one(tmp_path: Path) -> None:
    place, generator = tmp_path / "snapshots" / "one", random.Random(13)
    written(place)
    for _ in range(KILLS):
        argv = [sys.executable, "-m", "tests.edge.snapshots.writer", str(place)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            signal.sigtimedwait((), generator.random() * 0.01)
            process.kill()
        SnapshotFolder.open(place).verify()
    written(place)
    assert [path.name for path in place.parent.iterdir()] == ["one"]
    SnapshotFolder.open(place).verify()


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    place = written(tmp_path / "one")
    before = (place / MANIFEST).read_bytes()

    def fail() -> None:
        with being_written(place) as folder:
            (folder / "private").write_bytes(b"half of it")
            raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="one cannot be written: No space left on device"):
        fail()
    assert (place / MANIFEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="one cannot be written: File exists"):
        written(tmp_path / "file" / "one")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    place = written(tmp_path / "one")
    content = bytearray((place / name).read_bytes())
    content[100] ^= 1
    (place / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"is damaged: {name}: its digest is"):
        SnapshotFolder.open(place).verify()
    (place / name).unlink()
    with pytest.raises(ConfigError, match=f"is damaged: {name}: No such file"):
        SnapshotFolder.open(place).verify()


def test_an_image_goes_only_where_it_fits(tmp_path: Path) -> None:
    found = SnapshotFolder.open(written(tmp_path / "one"))
    with (tmp_path / "target").open("wb") as target:
        target.truncate(4096)
        with pytest.raises(ConfigError, match="private: it has 7000 bytes"):
            found.fill("private", target.fileno())
        target.truncate(7000)
        found.fill("private", target.fileno())
    assert (tmp_path / "target").read_bytes() == b"private" * 1000


def test_a_disk_that_has_changed_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"as it was")
    found = disk.stat()
    place = written(tmp_path / "one", (BaseDisk(str(disk), found.st_size, found.st_mtime_ns),))
    SnapshotFolder.open(place)
    os.utime(disk, ns=(1, 1))
    with pytest.raises(ConfigError, match=r"disk has changed since the snapshot was made"):
        SnapshotFolder.open(place)
    disk.unlink()
    with pytest.raises(ConfigError, match=r"needs the disk .*: No such file"):
        SnapshotFolder.open(place)


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert place_of("one") == snapshots_dir() / "one" == tmp_path / "cvmlab/snapshots/one"
    assert place_of("./one") == Path.cwd() / "one"
    for wrong in ("", ".one", "one two", "ä", "x" * 80):
        with pytest.raises(ConfigError, match="not a name for a snapshot"):
            place_of(wrong)
    require_free(place_of("one"))
    written(place_of("one"))
    with pytest.raises(ConfigError, match="there is a snapshot one already"):
        require_free(place_of("one"))
    assert list(listed()) == [place_of("one")]
    assert remove("one") == place_of("one")
    assert list(listed()) == []
    with pytest.raises(ConfigError, match="there is no snapshot one"):
        remove("one")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("")
    with pytest.raises(ConfigError, match=r"there is no snapshot"):
        remove(str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis").exists()
