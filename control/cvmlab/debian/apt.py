# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages that cvmlab needs on this machine, and their installation.

Missing packages are installed as root or with ``sudo -n``; other users get one command to run.  On a
system without dpkg nothing is checked: the build reports what it lacks.

Standard library only, because bootstrap.py runs before any dependency is installed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cvmlab.base.errors import BuildError, ConfigError
from cvmlab.base.paths import cache_dir
from cvmlab.base.progress import Part, Style, task
from cvmlab.base.steps import Steps


_QUERY_DEADLINE_S = 30
_APT_DEADLINE_S = 900


class Need(StrEnum):
    """The purpose that a package is needed for."""

    ENVIRONMENT = "environment"
    BUILD = "build"
    TEST = "test"
    WHEEL = "wheel"
    DISK = "disk image"
    FOLDER = "file system of a folder"


@dataclass(frozen=True, slots=True)
class AptPackage:
    """A Debian package, by the name it has in Debian 12, 13 and Ubuntu."""

    name: str
    need: Need
    purpose: str


PACKAGES = (
    AptPackage(
        f"python3.{sys.version_info.minor}-venv", Need.ENVIRONMENT, "the virtual environment"
    ),
    AptPackage("gcc", Need.BUILD, "compiles QEMU"),
    AptPackage("libc6-dev", Need.BUILD, "the C library's headers"),
    AptPackage("ccache", Need.BUILD, "makes the next build short"),
    AptPackage("ninja-build", Need.BUILD, "runs the build"),
    AptPackage("make", Need.BUILD, "QEMU's configure asks for it"),
    AptPackage("patch", Need.BUILD, "applies plugin/patches"),
    AptPackage("dpkg-dev", Need.BUILD, "unpacks Debian source packages"),
    AptPackage("xz-utils", Need.BUILD, "unpacks the source tarball"),
    AptPackage("pkgconf", Need.BUILD, "finds libraries"),
    AptPackage("flex", Need.BUILD, "QEMU's configure asks for it"),
    AptPackage("bison", Need.BUILD, "QEMU's configure asks for it"),
    AptPackage("libglib2.0-dev", Need.BUILD, "QEMU's base library"),
    AptPackage("libpixman-1-dev", Need.BUILD, "display devices"),
    AptPackage("libfdt-dev", Need.BUILD, "device trees"),
    AptPackage("zlib1g-dev", Need.BUILD, "compressed disk images"),
    AptPackage("libslirp-dev", Need.BUILD, "user-mode network"),
    AptPackage("libcap-ng-dev", Need.BUILD, "9p shared folders"),
    AptPackage("libattr1-dev", Need.BUILD, "9p shared folders"),
    AptPackage("patchelf", Need.WHEEL, "lets QEMU find the libraries beside it"),
    AptPackage("mmdebstrap", Need.DISK, "installs a system into a folder"),
    AptPackage("uidmap", Need.DISK, "lets mmdebstrap work without root"),
    AptPackage("fakeroot", Need.DISK, "keeps owners without root"),
    AptPackage("fdisk", Need.DISK, "sfdisk, which writes partition tables"),
    AptPackage("mtools", Need.DISK, "writes the EFI system partition"),
    AptPackage("e2fsprogs", Need.FOLDER, "mke2fs, which makes a file system of a folder"),
    AptPackage("git", Need.TEST, "lists the repository's files"),
    AptPackage("cpio", Need.TEST, "reads our initramfs back"),
    AptPackage("libarchive-tools", Need.TEST, "bsdtar, which reads our initramfs back"),
)


def missing(needs: Iterable[Need]) -> tuple[AptPackage, ...]:
    """Return the packages for ``needs`` that dpkg does not list as installed."""
    wanted = [package for package in PACKAGES if package.need in set(needs)]
    if shutil.which("dpkg-query") is None:
        return ()
    answer = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *(p.name for p in wanted)],
        capture_output=True,
        text=True,
        check=False,  # it fails if it does not know a name, but answers for the rest
        timeout=_QUERY_DEADLINE_S,
    )
    installed = {line.split()[0] for line in answer.stdout.splitlines() if " installed" in line}
    return tuple(package for package in wanted if package.name not in installed)


def ensure(needs: Iterable[Need], *, style: Style = Style.AUTO) -> None:
    """Install what is missing for ``needs``, or raise ConfigError with the one command to run.

    CVMLAB_NO_INSTALL=1 forbids installing.
    """
    packages = missing(needs)
    if not packages:
        return
    names = [package.name for package in packages]
    prefix = _privilege(os.geteuid())
    if prefix is None:
        raise ConfigError(
            f"Debian packages are missing: {' '.join(names)}",
            hint=f"run: sudo apt-get install --no-install-recommends {' '.join(names)}",
        )
    _install(names, prefix, style)


def _privilege(uid: int) -> Sequence[str] | None:
    """Return the words that run a command as root for user ``uid``; None if there are none."""
    if os.environ.get("CVMLAB_NO_INSTALL") or shutil.which("apt-get") is None:
        return None
    if uid == 0:
        return ()
    if shutil.which("sudo") is None:
        return None
    asked = subprocess.run(
        ["sudo", "-n", "true"], capture_output=True, check=False, timeout=_QUERY_DEADLINE_S
    )
    return ("sudo", "-n") if asked.returncode == 0 else None


def _install(names: Sequence[str], prefix: Sequence[str], style: Style) -> None:
    log = cache_dir() / "apt.log"
    log.unlink(missing_ok=True)
    phases = (Part(f"installing {len(names)} packages: {' '.join(names)}", 60.0),)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "Acquire::Retries=3"]
    install = [*apt, "-o", "DPkg::Lock::Timeout=120", "install", "-y"]
    install += ["--no-install-recommends", *names]
    with task("Debian packages", phases, style=style, stream=sys.stderr) as running:
        running.enter(phases[0].name)
        steps = Steps(log=log, tick=running.tick)
        try:
            steps.run(install, what="apt-get install", deadline_s=_APT_DEADLINE_S)
        except BuildError:
            # The package lists may be missing (a bare container) or older than the mirror.
            steps.run([*apt, "update"], what="apt-get update", deadline_s=_APT_DEADLINE_S)
            steps.run(install, what="apt-get install", deadline_s=_APT_DEADLINE_S)
