# SPDX-License-Identifier: GPL-2.0-or-later
"""Source packages by their hashes: the real apt, on an archive in a folder."""

import hashlib
import shutil
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, NoSourceError
from cvmlab.base.paths import cache_dir
from cvmlab.debian.packages import silent
from cvmlab.debian.pool import PinnedFile, PinnedPackage, fetch_pinned
from cvmlab.debian.sources import Suite
from cvmlab.qemu.recipe import fetch_source
from cvmlab.qemu.versions import QemuVersion
from tests.fakes.debian_archive import DebianArchive


pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="apt is not installed: not Debian or Ubuntu"
)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DebianArchive:
    """The machine's Debian archive, with qemu 11.1.1 in its pool; the cache is empty."""
    made = DebianArchive(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APT_CONFIG", str(made.apt_config))
    for name in ("CVMLAB_DEBIAN_MIRROR", "CVMLAB_OFFLINE", "CVMLAB_QEMU_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    made.add_source("qemu", "11.1.1", b"tar")
    return made


def pinned(archive: DebianArchive, version: str = "11.1.1") -> PinnedPackage:
    """Pin what is in the pool."""
    pool = archive.mirror / "pool"
    names = [f"qemu_{version}.dsc", f"qemu_{version}.tar.xz"]
    hashes = [hashlib.sha256((pool / name).read_bytes()).hexdigest() for name in names]
    return PinnedPackage("pool", tuple(map(PinnedFile, names, hashes)))


def forget_lists(archive: DebianArchive) -> None:
    shutil.rmtree(archive.mirror / "dists")


def test_a_pinned_package_needs_no_list(archive: DebianArchive) -> None:
    package = pinned(archive)
    forget_lists(archive)
    steps: list[str] = []
    folder = fetch_pinned(package, steps.append)
    assert sorted(path.name for path in folder.iterdir()) == [file.name for file in package.files]
    assert steps == ["fetching qemu_11.1.1"]


def test_what_was_fetched_once_needs_no_archive(
    archive: DebianArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pinned(archive)
    folder = fetch_pinned(package, silent)
    shutil.rmtree(archive.mirror)
    monkeypatch.setenv("CVMLAB_OFFLINE", "1")
    assert fetch_pinned(package, silent) == folder


def test_offline_nothing_is_fetched(
    archive: DebianArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CVMLAB_OFFLINE", "1")
    with pytest.raises(BuildError, match=r"qemu_11\.1\.1 is not in the cache"):
        fetch_pinned(pinned(archive), silent)


def test_another_file_of_that_name_is_refused(archive: DebianArchive) -> None:
    package = pinned(archive)
    (archive.mirror / "pool" / package.files[1].name).write_bytes(b"other")
    with pytest.raises(BuildError, match="is another file than the pinned one"):
        fetch_pinned(package, silent)
    assert not list((cache_dir() / "packages").iterdir())


def test_a_file_that_left_the_pool_is_named(archive: DebianArchive) -> None:
    package = pinned(archive)
    (archive.mirror / "pool" / package.files[0].name).unlink()
    with pytest.raises(BuildError, match=r"qemu_11\.1\.1\.dsc is not in the archive's pool"):
        fetch_pinned(package, silent)


def test_the_pinned_source_comes_first(archive: DebianArchive) -> None:
    version = QemuVersion(name="11.1", pinned=pinned(archive), suites=(Suite.TRIXIE,))
    archive.add_source("qemu", "11.1.2", b"newer")
    assert fetch_source(version, silent).path.name == "qemu_11.1.1.dsc"


def test_a_listed_source_is_the_next(archive: DebianArchive) -> None:
    version = QemuVersion(name="11.1", pinned=pinned(archive), suites=(Suite.TRIXIE,))
    archive.add_source("qemu", "11.1.2", b"newer")
    (archive.mirror / "pool" / "qemu_11.1.1.dsc").unlink()
    assert fetch_source(version, silent).path.name == "qemu_11.1.2.dsc"


def test_without_any_source_it_says_where_it_looked(archive: DebianArchive) -> None:
    version = QemuVersion(name="11.1", pinned=pinned(archive), suites=(Suite.TRIXIE, Suite.SID))
    archive.add_source("qemu", "12.0.0", b"newer")
    (archive.mirror / "pool" / "qemu_11.1.1.dsc").unlink()
    with pytest.raises(NoSourceError) as caught:
        fetch_source(version, silent)
    assert caught.value.message.startswith(
        "there is no source of QEMU 11.1: qemu_11.1.1.dsc is not in the archive's pool; "
        "the newest qemu of the suite trixie is qemu_12.0.0; apt-get update (sid) failed: "
    )
    assert caught.value.hint == ("give one: cvmlab build --qemu-version 11.1 --qemu-source FILE")
