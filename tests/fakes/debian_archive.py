# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian archive in a folder, with real packages, that the real apt reads without a network."""

import hashlib
import lzma
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


_DEADLINE_S = 30


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    for name, contents in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)


def build_deb(place: Path, control: Mapping[str, str], files: Mapping[str, bytes]) -> Path:
    """Build a package in the folder *place*."""
    tree = place / "tree"
    write_tree(tree, files)
    text = "".join(f"{name}: {value}\n" for name, value in control.items())
    write_tree(tree, {"DEBIAN/control": text.encode()})
    deb = place / f"{control['Package']}_{control['Version']}_{control['Architecture']}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(deb)],
        check=True,
        capture_output=True,
        timeout=_DEADLINE_S,
    )
    shutil.rmtree(tree)
    return deb


class DebianArchive:
    """``apt_config`` is what $APT_CONFIG has to be for the archive to be this machine's."""

    def __init__(self, root: Path, suite: str = "trixie") -> None:
        self.suite = suite
        self.mirror = root / "mirror"
        self.apt_config = root / "machine" / "apt.conf"
        self._packages: list[str] = []
        self._sources: list[str] = []
        entry = f"deb [trusted=yes] file:{self.mirror} {suite} main\n"
        config = (
            f'Dir::Etc "{self.apt_config.parent}";\n'
            'Dir::Etc::parts "/dev/null";\nAPT::Update::Post-Invoke { "false"; };\n'
        )
        write_tree(
            self.apt_config.parent, {"sources.list": entry.encode(), "apt.conf": config.encode()}
        )
        self.publish()

    def add(
        self, package: str, files: Mapping[str, bytes], *, version: str = "1.0-1", depends: str = ""
    ) -> None:
        """Add a package and publish the lists that have it."""
        control = {
            "Package": package,
            "Version": version,
            "Architecture": "amd64",
            "Maintainer": "Nobody <nobody@example.org>",
            "Description": "a package for tests",
        }
        if depends:
            control["Depends"] = depends
        pool = self.mirror / "pool"
        pool.mkdir(parents=True, exist_ok=True)
        deb = build_deb(pool, control, files)
        control["Filename"] = f"pool/{deb.name}"
        control["Size"] = str(deb.stat().st_size)
        control["SHA256"] = hashlib.sha256(deb.read_bytes()).hexdigest()
        self._packages.append("".join(f"{name}: {value}\n" for name, value in control.items()))
        self.publish()

    def add_source(self, package: str, version: str, contents: bytes) -> None:
        """Add a source package of one tarball."""
        pool = self.mirror / "pool"
        tarball, dsc = f"{package}_{version}.tar.xz", f"{package}_{version}.dsc"
        write_tree(pool, {tarball: lzma.compress(contents)})
        head = f"Format: 3.0 (native)\nVersion: {version}\nMaintainer: Nobody <n@example.org>\n"
        write_tree(pool, {dsc: f"{head}Source: {package}\n".encode()})
        files = "".join(
            f"\n {hashlib.sha256(data).hexdigest()} {len(data)} {name}"
            for name in (dsc, tarball)
            for data in [(pool / name).read_bytes()]
        )
        entry = f"Package: {package}\nBinary: {package}\nDirectory: pool\n{head}"
        self._sources.append(f"{entry}Checksums-Sha256:{files}\n")
        self.publish()

    def publish(self) -> None:
        """Write the package lists and the file that names them."""
        lists = {
            "main/binary-amd64/Packages": "\n".join(self._packages).encode(),
            "main/source/Sources": "\n".join(self._sources).encode(),
        }
        dist = self.mirror / "dists" / self.suite
        write_tree(dist, lists)
        hashes = "".join(
            f"\n {hashlib.sha256(data).hexdigest()} {len(data)} {name}"
            for name, data in lists.items()
        )
        release = (
            f"Origin: Test\nSuite: {self.suite}\nCodename: {self.suite}\n"
            "Date: Sat, 01 Jan 2000 00:00:00 UTC\nArchitectures: amd64\nComponents: main\n"
            f"SHA256:{hashes}\n"
        )
        write_tree(dist, {"Release": release.encode()})
