# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's source: which one, its identity, and the tree that is built from it.

The identity of a source decides whether an earlier build still fits.  A Debian source package is
known by its .dsc, which lists the hashes of all the rest; a tarball by its content; a folder by
the names, sizes and times of its files.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, assert_never

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.resources import plugin_dir
from cvmlab.base.steps import Steps
from cvmlab.qemu.series import numbers


# The series is made for the versions in versions.py, and is tried on any of these.
_TAKEN = range(10, 12)
_UNPACK_DEADLINE_S = 600.0
# What of plugin/ goes into one folder of QEMU, and keeps its folders there.
_COMPILED = ("meson.build", "trace-events", "trace.h", "core", "qemu", "profiles")
_PLUGIN_HOME = Path("hw", "restricted-memory")
_DEVICES_HOME = Path("configs", "devices")


class SourceKind(StrEnum):
    """How a source comes: Debian source package, tarball, or unpacked folder."""

    DEBIAN = "debian"
    TARBALL = "tarball"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Source:
    """A QEMU source.  ``key`` changes whenever its content may have changed."""

    kind: SourceKind
    path: Path
    key: str

    @classmethod
    def at(cls, path: Path) -> Self:
        """Identify what is at ``path``; raise ConfigError if it is no QEMU source."""
        path = path.expanduser().resolve()
        if path.is_dir():
            if not (path / "qapi" / "qapi-schema.json").is_file():
                raise ConfigError(
                    f"{path} is not a QEMU source tree", hint="name the folder that has configure"
                )
            return cls(SourceKind.FOLDER, path, _folder_key(path))
        if not path.is_file():
            raise ConfigError(f"there is no QEMU source at {path}")
        kind = SourceKind.DEBIAN if path.suffix == ".dsc" else SourceKind.TARBALL
        with path.open("rb") as file:
            return cls(kind, path, hashlib.file_digest(file, "sha256").hexdigest())

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what to_json() wrote."""
        return cls(SourceKind(document["kind"]), Path(document["path"]), document["key"])

    def to_json(self) -> dict[str, str]:
        """Return the source as plain values."""
        return {"kind": self.kind, "path": str(self.path), "key": self.key}

    def unpack(self, tree: Path, steps: Steps) -> None:
        """Put the source at ``tree``, which must not exist.  Raise BuildError."""
        match self.kind:
            case SourceKind.FOLDER:
                command: list[str | Path] = ["cp", "-a", "--reflink=auto", self.path, tree]
            case SourceKind.DEBIAN:
                # apt verified the signature of the package it fetched.
                command = ["dpkg-source", "--no-check", "-x", self.path, tree]
            case SourceKind.TARBALL:
                tree.mkdir()
                command = ["tar", "-x", "-f", self.path, "-C", tree, "--strip-components=1"]
            case _:
                assert_never(self.kind)
        steps.run(command, what=f"unpacking {self.path.name}", deadline_s=_UNPACK_DEADLINE_S)
        # Half of the tree, and never compiled: firmware comes from Debian's packages.
        shutil.rmtree(tree / "roms", ignore_errors=True)
        require_taken(tree)


def require_taken(tree: Path) -> None:
    """Raise BuildError unless ``tree`` is a QEMU that plugin/patches may fit."""
    found = tree_version(tree)
    if numbers(found)[0] not in _TAKEN:
        raise BuildError(
            f"this is QEMU {found}, and the plugin is for 10.x and 11.x",
            hint="choose another source with --qemu-source",
        )


def tree_version(tree: Path) -> str:
    """Return the version that a source tree says it is; raise BuildError if it says none."""
    try:
        return (tree / "VERSION").read_text(encoding="ascii").strip()
    except OSError as error:
        raise BuildError(f"{tree} is not a QEMU source tree: it has no VERSION file") from error


def plugin_files() -> dict[Path, Path]:
    """Return every file that the plugin adds to QEMU: where it goes to -> where it is."""
    plugin = plugin_dir()
    placed = {
        _PLUGIN_HOME / file.relative_to(plugin): file
        for name in _COMPILED
        for file in _files(plugin / name)
    }
    return placed | {Path("qapi", file.name): file for file in _files(plugin / "qapi")}


def device_files(targets: Iterable[str]) -> dict[Path, Path]:
    """Return the device lists of *targets*, which the unpatched QEMU gets too."""
    lists = plugin_dir() / "devices"
    return {
        _DEVICES_HOME / file.relative_to(lists): file
        for target in sorted(targets)
        for file in _files(lists / target)
    }


def digest(files: dict[Path, Path]) -> str:
    """Return a hash over names and contents."""
    total = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = file.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def place(tree: Path, files: dict[Path, Path]) -> None:
    """Copy ``files`` into ``tree``, writing only what differs: ninja goes by times."""
    for name, file in files.items():
        target, content = tree / name, file.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def sync_plugin(tree: Path) -> None:
    """Make the plugin's folder in ``tree`` what plugin/ is now."""
    files = plugin_files()
    place(tree, files)
    for file in _files(tree / _PLUGIN_HOME):
        if file.relative_to(tree) not in files:
            file.unlink()


def read_choice(record: Path) -> Source | None:
    """Return the source that an earlier build used, or None."""
    try:
        return Source.from_json(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None  # never built, or written by a version that knew other fields


def write_choice(record: Path, source: Source) -> None:
    """Remember the source for later builds."""
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(source.to_json()) + "\n", encoding="utf-8")


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted([path, *path.rglob("*")]) if file.is_file())


def _folder_key(folder: Path) -> str:
    total = hashlib.sha256()
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in {".git", "roms"})
        for name in sorted(names):
            status = Path(root, name).lstat()
            total.update(f"{root}/{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return total.hexdigest()
