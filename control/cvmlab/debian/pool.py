# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch a source package from the pool of Debian's archive, by the hashes of its files.

The pool keeps files for a while after the last suite has ceased to list them.  Without a list there
is no signature to check, so a file is taken only if it has the hash that it was pinned with.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cvmlab.base.errors import BuildError, CvmError
from cvmlab.base.paths import cache_dir
from cvmlab.debian.apt_call import Archive
from cvmlab.debian.packages import OFFLINE_VARIABLE, OnStep, disk_errors, publish, temporary_folder
from cvmlab.debian.sources import Suite


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file of the pool and its SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PinnedPackage:
    """A source package: its files, the .dsc first, in a folder of the archive."""

    folder: str
    files: tuple[PinnedFile, ...]

    @property
    def name(self) -> str:
        return self.files[0].name.removesuffix(".dsc")


def fetch_pinned(package: PinnedPackage, on_step: OnStep) -> Path:
    """Return the folder with the files of *package*; raise BuildError if one cannot be had."""
    have = cache_dir() / "packages" / package.name
    if have.exists():
        return have
    if os.environ.get(OFFLINE_VARIABLE):
        raise BuildError(
            f"{package.name} is not in the cache",
            hint=f"unset {OFFLINE_VARIABLE} once, with the network reachable",
        )
    on_step(f"fetching {package.name}")
    with disk_errors(), temporary_folder(have.parent) as temporary:
        target = temporary / have.name
        target.mkdir()
        for file in package.files:
            _fetch(f"{package.folder}/{file.name}", file, target / file.name)
        return publish(target, have)


def _fetch(path: str, file: PinnedFile, target: Path) -> None:
    try:
        # The suite says only which keys apt would need, for a list that is not fetched.
        Archive(Suite.TRIXIE, source=True).download_file(path, target)
    except CvmError as error:
        raise BuildError(f"{file.name} is not in the archive's pool", hint=error.message) from error
    with target.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256:
        raise BuildError(f"{file.name} in the archive's pool is another file than the pinned one")
