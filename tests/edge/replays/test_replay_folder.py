# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording on disk: whole once its manifest is there, and nothing else before."""

from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.replays import replay_folder
from cvmlab.replays import replay_manifest as parts
from cvmlab.replays.replay_folder import ReplayFolder
from cvmlab.replays.replay_manifest import ReplayManifest
from cvmlab.snapshots.manifest import CONSOLE, EVENTS, INITRD, KERNEL, BaseDisk
from cvmlab.snapshots.spec_document import to_document


def recorded(place: Path, disks: tuple[BaseDisk, ...] = ()) -> Path:
    kernel = place.with_name("vmlinuz")
    kernel.write_bytes(b"kernel")
    spec = BootSpec(kernel=kernel)
    replay_folder.begin(place, spec)
    own = replay_folder.keep_boot_files(place, spec)
    for name in (parts.LOG, EVENTS):
        (place / name).write_bytes(name.encode())
    manifest = ReplayManifest(
        cvmlab="1", recorded="2026-12-01T02:00:00+00:00", qemu_version="10.0.13", qemu_build="b",
        coco="tdx", records=7, release="6.12", spec=to_document(spec, own),
        files={}, disks=list(disks),
    )  # fmt: skip
    replay_folder.finish(place, manifest)
    kernel.unlink()
    return place


def test_a_recording_has_its_kernel_with_it(tmp_path: Path) -> None:
    found = ReplayFolder.open(recorded(tmp_path / "one"))
    assert found.spec.kernel == tmp_path / "one" / KERNEL
    assert found.manifest.records == 7
    assert found.log.read_bytes() == parts.LOG.encode()


def test_a_new_recording_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    place = recorded(tmp_path / "one")
    replay_folder.begin(place, BootSpec())
    assert list(place.iterdir()) == []


def test_no_file_of_somebody_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match=r"no part of a recording, such as mine"):
        replay_folder.begin(tmp_path, BootSpec())
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", [KERNEL, INITRD, CONSOLE])
def test_a_folder_with_such_names_is_no_recording(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"no part of a recording, such as {name}"):
        replay_folder.begin(tmp_path, BootSpec())
    assert (tmp_path / name).read_text() == "mine"


def test_a_recording_is_not_made_of_itself(tmp_path: Path) -> None:
    place = recorded(tmp_path / "one")
    with pytest.raises(ConfigError, match="is in the folder that is to be recorded in"):
        replay_folder.begin(place, ReplayFolder.open(place).spec)
    ReplayFolder.open(place)


def test_one_that_was_not_finished_says_so(tmp_path: Path) -> None:
    replay_folder.begin(tmp_path, BootSpec())
    (tmp_path / parts.LOG).touch()
    with pytest.raises(ConfigError, match="not finished"):
        ReplayFolder.open(tmp_path)


def test_what_is_no_recording_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no recording: No such file"):
        ReplayFolder.open(tmp_path)


@pytest.mark.parametrize("name", [parts.LOG, EVENTS, KERNEL])
def test_a_changed_bit_is_named(tmp_path: Path, name: str) -> None:
    place = recorded(tmp_path / "one")
    content = bytearray((place / name).read_bytes())
    content[0] ^= 1
    (place / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"damaged: {name}: its digest"):
        ReplayFolder.open(place)


@pytest.mark.parametrize("name", [parts.LOG, EVENTS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    place = recorded(tmp_path / "one")
    (place / name).unlink()
    with pytest.raises(ConfigError, match=rf"damaged: {name}: No such file"):
        ReplayFolder.open(place)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": 2', '"format": 1', "format 1, not 2"),
        ('"records"', '"record"', "no manifest of a recording"),
        ('"coco"', "coco", "no manifest of a recording"),
        ('"cpus"', '"gpus"', "its VM cannot be described"),
        ('"kernel": {', '"../kernel": {', "no name of a file"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    place = recorded(tmp_path / "one")
    text = (place / parts.MANIFEST).read_text()
    assert old in text
    head, _, tail = text.rpartition(old)
    (place / parts.MANIFEST).write_text(head + new + tail)
    with pytest.raises(ConfigError, match=message):
        ReplayFolder.open(place)


def test_a_disk_that_has_changed_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"old")
    found = disk.stat()
    place = recorded(tmp_path / "one", (BaseDisk(str(disk), found.st_size, found.st_mtime_ns),))
    ReplayFolder.open(place)
    disk.write_bytes(b"newer")
    with pytest.raises(ConfigError, match=r"the disk .*disk.img has changed"):
        ReplayFolder.open(place)
    disk.unlink()
    with pytest.raises(ConfigError, match=r"needs the disk .*: No such file"):
        ReplayFolder.open(place)
