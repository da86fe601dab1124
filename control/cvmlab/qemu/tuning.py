# SPDX-License-Identifier: GPL-2.0-or-later
"""How the compiler optimizes QEMU, and the profiles of running it that the fastest build needs.

A profile is kept under ``$XDG_CACHE_HOME/cvmlab/qemu/profiles``, by the key of the build that was
run for it.  A build with a profile has its hash in its own key.
"""

import hashlib
import os
import tarfile
from enum import StrEnum
from lzma import LZMAError
from pathlib import Path

from cvmlab.base.choices import choose
from cvmlab.base.errors import BuildError


TUNING_VARIABLE = "CVMLAB_QEMU_TUNING"
_COUNTS = ".gcda"  # what the compiler calls a profile: one file for each object, beside it
_CONFIGURE = {
    "plain": (),
    "lto": ("--enable-lto",),
    "training": ("--extra-cflags=-fprofile-generate -fprofile-update=atomic",),
    # What was not run is optimized as usual.  A call that nobody saw has no counts at all.
    "pgo": (
        "--enable-lto",
        "--extra-cflags=-fprofile-use -fprofile-partial-training -Wno-missing-profile"
        " -Wno-error=coverage-mismatch",
    ),
}


class Tuning(StrEnum):
    """PLAIN as QEMU's configure has it; LTO optimizes across files; PGO also by a profile.

    TRAINING is slow: it writes the profile when it exits.
    """

    PLAIN = "plain"
    LTO = "lto"
    PGO = "pgo"
    TRAINING = "training"

    @property
    def options(self) -> tuple[str, ...]:
        """Return what configure is told."""
        return _CONFIGURE[self]

    @property
    def share_of_steps(self) -> float:
        """Return what part of the time the steps of ninja stand for: the last link does the rest."""
        return 0.75 if "--enable-lto" in self.options else 1.0

    @property
    def uses_ccache(self) -> bool:
        """Tell whether an earlier object may be taken: one with counts names the folder it is for."""
        return self in (Tuning.PLAIN, Tuning.LTO)


def asked_tuning(word: str | None) -> Tuning | None:
    """Return the tuning *word*, or $CVMLAB_QEMU_TUNING; None if neither is given.

    Raise ConfigError if there is none of that name.
    """
    word = word or os.environ.get(TUNING_VARIABLE)
    names = [tuning.value for tuning in Tuning if tuning is not Tuning.TRAINING]
    return Tuning(choose("tuning of QEMU", word, names)) if word else None


def profile_at(profiles: Path, key: str) -> Path:
    """Return where the profile of the training build *key* is kept."""
    return profiles / f"{key}.tar.xz"


def profile_digest(profile: Path) -> str:
    """Return a hash of a profile; "" if there is none."""
    try:
        with profile.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def collect_profile(build: Path, profile: Path) -> None:
    """Pack what the runs of a training build counted; raise BuildError if they counted nothing."""
    found = sorted(build.rglob(f"*{_COUNTS}"))
    if not found:
        raise BuildError("QEMU ran for its profile, and wrote none", hint="run the build again")
    profile.parent.mkdir(parents=True, exist_ok=True)
    partial = profile.with_suffix(".partial")
    with tarfile.open(partial, "w:xz") as archive:
        for path in found:
            archive.add(path, os.fspath(path.relative_to(build)), filter=_anonymous)
    partial.replace(profile)


def place_profile(profile: Path, build: Path) -> None:
    """Unpack a profile where the compiler looks for it; raise BuildError if it is damaged."""
    try:
        with tarfile.open(profile) as archive:
            for member in archive:
                counts = archive.extractfile(member)
                target = (build / member.name).resolve()
                if counts is not None and target.is_relative_to(build.resolve()):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(counts.read())
    except (OSError, tarfile.TarError, EOFError, LZMAError) as error:
        raise BuildError(
            f"the profile {profile} cannot be read: {error}",
            hint="run `cvmlab build --pgo --force`, which makes another",
        ) from error


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made it and when, so that equal counts are an equal archive."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
