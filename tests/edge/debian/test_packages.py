# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching packages: the real apt and dpkg-deb, on an archive in a folder."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from cvmlab.base.errors import BuildError, ConfigError, ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.debian import packages
from cvmlab.debian.apt_call import run
from cvmlab.debian.sources import (
    KEYRING,
    AptSource,
    Suite,
    debian_archive,
    machine_sources,
    parse_deb822,
    parse_one_line,
)
from tests.fakes.debian_archive import DebianArchive, build_deb, write_tree


needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="apt is not installed: not Debian or Ubuntu"
)
_META = "linux-image-cloud-amd64"
_DAY_S = 24 * 3600


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DebianArchive:
    """The machine's Debian archive for this test, with an empty cache."""
    made = DebianArchive(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APT_CONFIG", str(made.apt_config))
    monkeypatch.delenv("CVMLAB_DEBIAN_MIRROR", raising=False)
    monkeypatch.delenv("CVMLAB_OFFLINE", raising=False)
    return made


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def _let_a_day_pass() -> None:
    for folder in (cache_dir() / "apt").iterdir():
        for path in [folder / "updated", *(folder / "have").iterdir()]:
            _age(path, _DAY_S + 60)


@needs_apt
def test_a_package_is_fetched_and_unpacked_and_not_installed(archive: DebianArchive) -> None:
    archive.add("hello", {"usr/bin/hello": b"hi"})
    steps: list[str] = []
    deb = packages.fetch("hello", "trixie", on_step=steps.append)
    assert deb.name == "hello_1.0-1_amd64.deb"
    assert (packages.unpack(deb) / "usr/bin/hello").read_bytes() == b"hi"
    assert steps == ["fetching the package lists of trixie", "fetching hello (trixie)"]


@needs_apt
def test_lists_younger_than_a_day_are_not_fetched_again(archive: DebianArchive) -> None:
    archive.add("hello", {"v": b"1"})
    packages.fetch("hello", "trixie")
    archive.add("hello", {"v": b"2"}, version="2.0-1")
    steps: list[str] = []
    assert "_1.0-1_" in packages.fetch("hello", "trixie", on_step=steps.append).name
    assert steps == []


@needs_apt
def test_after_a_day_new_versions_are_found_of_every_package(archive: DebianArchive) -> None:
    """Lists that were fetched for one package are news for the others too."""
    for package in ("one", "two"):
        archive.add(package, {"v": b"1"})
        packages.fetch(package, "trixie")
        archive.add(package, {"v": b"2"}, version="2.0-1")
    _let_a_day_pass()
    assert "_2.0-1_" in packages.fetch("one", "trixie").name
    assert "_2.0-1_" in packages.fetch("two", "trixie").name


@needs_apt
def test_with_the_mirror_gone_the_cached_package_is_used_and_the_mirror_left_alone(
    archive: DebianArchive,
) -> None:
    archive.add("hello", {"v": b"1"})
    deb = packages.fetch("hello", "trixie")
    _let_a_day_pass()
    shutil.rmtree(archive.mirror)
    assert packages.fetch("hello", "trixie") == deb
    steps: list[str] = []
    assert packages.fetch("hello", "trixie", on_step=steps.append) == deb
    assert steps == []


@needs_apt
def test_with_the_mirror_gone_and_nothing_cached_the_suite_is_named(
    archive: DebianArchive,
) -> None:
    shutil.rmtree(archive.mirror)
    with pytest.raises(ImageError, match=r"apt-get update \(trixie\) failed: "):
        packages.fetch("hello", "trixie")


@needs_apt
def test_offline_by_wish_asks_nobody(
    archive: DebianArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("hello", {"v": b"1"})
    monkeypatch.setenv("CVMLAB_OFFLINE", "1")
    with pytest.raises(ImageError) as caught:
        packages.fetch("hello", "trixie")
    assert "CVMLAB_OFFLINE" in (caught.value.hint or "")


@needs_apt
def test_a_package_the_mirror_has_replaced_is_fetched_in_its_new_version(
    archive: DebianArchive,
) -> None:
    archive.add("other", {"v": b"1"})
    archive.add("hello", {"v": b"1"})
    packages.fetch("other", "trixie")
    (archive.mirror / "pool" / "hello_1.0-1_amd64.deb").unlink()
    archive.add("hello", {"v": b"2"}, version="2.0-1")
    assert (packages.unpack(packages.fetch("hello", "trixie")) / "v").read_bytes() == b"2"


@needs_apt
def test_a_package_that_was_changed_on_the_way_is_refused(archive: DebianArchive) -> None:
    archive.add("hello", {"v": b"1"})
    deb = archive.mirror / "pool" / "hello_1.0-1_amd64.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(ImageError, match="hello"):
        packages.fetch("hello", "trixie")
    assert not list((cache_dir() / "packages").iterdir())


@needs_apt
def test_an_unknown_package_is_named(archive: DebianArchive) -> None:
    with pytest.raises(ImageError, match="no-such-thing") as caught:
        packages.fetch("no-such-thing", "trixie")
    assert caught.value.hint == "the suite does not have it; check name and suite"


@needs_apt
def test_an_unknown_source_package_is_named(archive: DebianArchive) -> None:
    with pytest.raises(BuildError, match="no-such-thing") as caught:
        packages.fetch_source("no-such-thing", "1.0", "trixie")
    assert caught.value.hint == "the suite does not have it; check name and suite"


@needs_apt
def test_a_source_package_is_a_folder_with_what_the_dsc_lists(archive: DebianArchive) -> None:
    archive.add_source("qemu", "10.0.13", b"tar")
    folder = packages.fetch_source("qemu", "10.0.", "trixie")
    assert sorted(path.name for path in folder.iterdir()) == [
        "qemu_10.0.13.dsc",
        "qemu_10.0.13.tar.xz",
    ]
    assert packages.fetch_source("qemu", "10.0.", "trixie") == folder


@needs_apt
def test_a_source_package_of_another_version_is_not_taken(archive: DebianArchive) -> None:
    archive.add_source("qemu", "11.2.0", b"tar")
    with pytest.raises(BuildError, match=r"the newest qemu of the suite trixie is qemu_11\.2\.0"):
        packages.fetch_source("qemu", "11.1.", "trixie")


@needs_apt
def test_a_meta_package_leads_to_the_kernel(archive: DebianArchive) -> None:
    archive.add(_META, {}, depends="linux-image-6.12.1-cloud-amd64 (= 1.0-1)")
    archive.add("linux-image-6.12.1-cloud-amd64", {"boot/vmlinuz-6.12.1": b"k"}, depends="kmod")
    assert packages.resolve_kernel(_META, "trixie") == ("linux-image-6.12.1-cloud-amd64",)
    unpacked = packages.fetch_kernel(_META, "trixie")
    assert (unpacked / "boot/vmlinuz-6.12.1").read_bytes() == b"k"
    assert packages.cached_kernel(_META, "trixie") == unpacked


@needs_apt
def test_a_kernel_in_several_packages_is_put_together(archive: DebianArchive) -> None:
    version = "7.2.13+deb14-cloud-amd64"
    parts = ("binary", "modules", "base")
    archive.add(_META, {}, depends=f"linux-base-cloud-amd64, linux-image-{version}")
    archive.add("linux-base-cloud-amd64", {}, depends=f"linux-base-{version}")
    needs = ", ".join(f"linux-{part}-{version} (= 1)" for part in parts)
    archive.add(f"linux-image-{version}", {}, depends=f"dracut | initramfs-tools, {needs}")
    for part in parts:
        archive.add(f"linux-{part}-{version}", {f"usr/lib/{part}": b""}, depends="kmod")
    unpacked = packages.fetch_kernel(_META, "trixie")
    assert sorted(path.name for path in (unpacked / "usr/lib").iterdir()) == sorted(parts)


@needs_apt
def test_a_package_that_is_no_kernel_is_refused(archive: DebianArchive) -> None:
    archive.add("hello", {"v": b"1"})
    with pytest.raises(ImageError, match=r"hello \(trixie\) is not a kernel"):
        packages.fetch_kernel("hello", "trixie")


def test_unpacking_at_the_same_time_gives_one_folder(tmp_path: Path) -> None:
    deb = _deb(tmp_path, b"x" * 100_000)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(packages.unpack(deb, into=tmp_path / "u")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert list((tmp_path / "u").iterdir()) == [found[0]]


def test_what_a_killed_run_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for name, age in (("old", _DAY_S + 60), ("new", 60)):
        folder = tmp_path / "u" / f".new-{name}"
        folder.mkdir(parents=True)
        _age(folder, age)
    packages.unpack(_deb(tmp_path, b"1"), into=tmp_path / "u")
    left = [path.name for path in (tmp_path / "u").glob(".new-*")]
    assert left == [".new-new"]


def test_the_folder_is_named_by_content(tmp_path: Path) -> None:
    first = packages.unpack(_deb(tmp_path, b"1"), into=tmp_path / "u")
    second = packages.unpack(_deb(tmp_path, b"2"), into=tmp_path / "u")
    assert first != second
    assert (first / "file").read_bytes() == b"1"


def test_a_damaged_package_leaves_nothing(tmp_path: Path) -> None:
    deb = tmp_path / "bad_1_amd64.deb"
    deb.write_bytes(b"!<arch>\n")
    with pytest.raises(ImageError, match="cannot be unpacked"):
        packages.unpack(deb, into=tmp_path / "u")
    assert list((tmp_path / "u").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    deb = _deb(tmp_path, b"1")
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ImageError, match="cannot write to the cache") as caught:
        packages.unpack(deb)
    assert "XDG_CACHE_HOME" in (caught.value.hint or "")


def test_a_command_past_its_deadline_is_ended_with_its_children() -> None:
    with pytest.raises(ImageError, match=r"the test took longer than 0\.2 s"):
        run(["sh", "-c", "sleep 60 & wait"], what="the test", deadline_s=0.2)


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(ImageError, match="no-such-program is not installed"):
        run(["no-such-program"], what="the test", deadline_s=1)


def _deb(tmp_path: Path, contents: bytes) -> Path:
    control = {
        "Package": "sample",
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@example.org>",
        "Description": "a package for tests",
    }
    return build_deb(tmp_path, control, {"file": contents})


_DEB822 = """\
# The main archive.
Types: deb deb-src
URIs: https://mirror.example.org/debian
Suites: trixie trixie-updates
Components: main
# A comment between fields.
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://mirror.example.org/off
Suites: trixie
Components: main
Enabled: no
"""


def test_deb822_is_read_with_a_key_inside() -> None:
    (found,) = parse_deb822(_DEB822)
    assert found.uris == ("https://mirror.example.org/debian",)
    assert found.suites == ("trixie", "trixie-updates")
    entry = found.for_suite(Suite.SID, source=True)
    assert "Types: deb-src\n" in entry
    assert "Suites: sid\n" in entry
    (again,) = parse_deb822(entry)
    assert again.signed_by == found.signed_by


@pytest.mark.parametrize(
    ("line", "signed_by"),
    [
        ("deb http://m.example.org/debian bookworm main contrib", None),
        (
            "deb  [ arch=amd64 signed-by=/k.gpg ]  http://m.example.org/debian bookworm main",
            "/k.gpg",
        ),
        ("deb [trusted=no] http://m.example.org/debian bookworm main # mine", None),
    ],
)
def test_one_line_entries_are_read(line: str, signed_by: str | None) -> None:
    (found,) = parse_one_line(f"# deb http://x.example.org sid main\n\n{line}\n")
    assert found.uris == ("http://m.example.org/debian",)
    assert found.is_debian()
    assert (found.signed_by, found.is_trusted) == (signed_by, False)


def test_switched_off_trust_stays_with_the_mirror() -> None:
    (found,) = parse_one_line("deb [trusted=yes] file:/srv/debian trixie main")
    assert "Trusted: yes\n" in found.for_suite(Suite.TRIXIE, source=False)


def test_the_archive_is_found_among_others_that_use_debians_names() -> None:
    entries = parse_one_line(
        "deb [signed-by=/k/vendor.gpg] https://vendor.example.com/debian bookworm main\n"
        "deb http://m.example.org/debian-security bookworm-security main\n"
        "deb https://tools.example.com/linux/debian bookworm stable\n"
        "deb http://m.example.org/debian bookworm main\n"
    )
    assert debian_archive(entries).uris == ("http://m.example.org/debian",)


def test_keys_of_one_release_are_replaced_by_those_of_all() -> None:
    one = "/usr/share/keyrings/debian-archive-bookworm-stable.gpg"
    entry = AptSource(("http://m.example.org/debian",), ("bookworm",), ("main",), one)
    expected = KEYRING if KEYRING.exists() else one
    assert f"Signed-By: {expected}\n" in entry.for_suite(Suite.SID, source=False)


def test_keys_of_a_private_mirror_are_kept() -> None:
    entry = AptSource(
        ("http://m.example.org/debian",), ("bookworm",), ("main",), "/etc/apt/own.gpg"
    )
    assert "Signed-By: /etc/apt/own.gpg\n" in entry.for_suite(Suite.SID, source=False)


def test_ubuntu_has_no_debian_archive_and_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CVMLAB_DEBIAN_MIRROR", raising=False)
    entry = b"deb http://m.example.org/ubuntu noble main universe\n"
    write_tree(tmp_path, {"sources.list": entry})
    with pytest.raises(ConfigError, match="not configured with a Debian archive") as caught:
        debian_archive(machine_sources(tmp_path / "sources.list", tmp_path / "sources.list.d"))
    assert "CVMLAB_DEBIAN_MIRROR" in (caught.value.hint or "")


def test_a_mirror_in_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMLAB_DEBIAN_MIRROR", "http://mine.example.org/debian")
    entry = debian_archive([]).for_suite(Suite.BOOKWORM, source=False)
    assert "URIs: http://mine.example.org/debian\n" in entry


@pytest.mark.parametrize(
    ("word", "suite"),
    [("backports", Suite.BACKPORTS), ("trixie-backports", Suite.BACKPORTS), ("sid", Suite.SID)],
)
def test_suites_by_name(word: str, suite: Suite) -> None:
    assert Suite.parse(word) is suite


def test_an_unknown_suite_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        Suite.parse("trixy")
    assert (caught.value.hint or "").startswith("did you mean trixie?")
