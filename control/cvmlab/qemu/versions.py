# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions of QEMU that cvmlab is tested with, and where the source of each comes from.

A version is a series of stable releases, such as 10.0.  ``VERSIONS`` is the whole table; which
patches a version takes follows from the folders of plugin/patches.
"""

import os
from dataclasses import dataclass
from typing import Final

from cvmlab.base.choices import choose
from cvmlab.debian.pool import PinnedFile, PinnedPackage
from cvmlab.debian.sources import Suite


VERSION_VARIABLE = "CVMLAB_QEMU_VERSION"


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuVersion:
    """One row.

    The source is the first that is there: ``pinned``, a package of Debian's archive that need not
    be in a list, then those of ``suites`` that list this series.
    """

    name: str
    pinned: PinnedPackage | None = None
    suites: tuple[Suite, ...]

    @property
    def prefix(self) -> str:
        """How the version numbers of this series start."""
        return f"{self.name}."


VERSIONS: Final = (
    QemuVersion(name="10.0", suites=(Suite.TRIXIE,)),
    QemuVersion(
        name="11.1",
        pinned=PinnedPackage(
            "pool/main/q/qemu",
            (
                PinnedFile(
                    "qemu_11.1.1+ds-1.dsc",
                    "dfd4fbdd38517e2467002091bbcd938bbff8b2c851cc3f56b019236c7d1f21da",
                ),
                PinnedFile(
                    "qemu_11.1.1+ds-1.debian.tar.xz",
                    "870a1193f28ce522ac91f68100d75dce5527e08d8958344b389c9fa24b44968f",
                ),
                PinnedFile(
                    "qemu_11.1.1+ds.orig.tar.xz",
                    "0b1376e75dbe3e2fea4e408f8669f88a723f419f36a5b7d74cc6a4cfe07e4f5e",
                ),
            ),
        ),
        suites=(Suite.BACKPORTS, Suite.SID),
    ),
)
DEFAULT_VERSION: Final = VERSIONS[0]


def asked_version(word: str | None) -> QemuVersion | None:
    """Return the version *word*, or $CVMLAB_QEMU_VERSION; None if neither is given.

    Raise ConfigError if there is no such version.
    """
    word = word or os.environ.get(VERSION_VARIABLE)
    if not word:
        return None
    rows = {version.name: version for version in VERSIONS}
    return rows[choose("QEMU version", word, rows)]
