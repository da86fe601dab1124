# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system of a disk image: a suite's packages, installed by mmdebstrap into a tarball.

mmdebstrap needs no root if user namespaces are allowed.  The tarball is cached: recipes that differ
only in the boot loader share it.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from cvmlab.base.errors import ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.base.resources import guest_images_dir
from cvmlab.base.steps import Steps
from cvmlab.debian.apt_call import Archive, machine_settings
from cvmlab.debian.packages import OFFLINE_VARIABLE
from cvmlab.debian.sources import Suite
from cvmlab.images.recipes import DiskRecipe


# No file in the image is newer, so that the same packages give the same tarball.
EPOCH = 1_700_000_000
_LAYOUT = "1"  # of these tarballs; change it to rebuild cached ones
_DEADLINE_S = 1800.0
_KEPT = 2
_BASE = ("systemd-sysv", "udev", "kmod", "login")
_LEFT_OUT = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*",
    "/usr/lib/udev/hwdb.d/*",  # names of hardware, which would be half of the initrd
)  # fmt: skip
# apt and dpkg print three such lines for each package.
_PACKAGE_STEP = re.compile(r"(Get:\d+|Unpacking|Setting up) ")
_EXPECTED_STEPS = 330


def digest(recipe: DiskRecipe) -> str:
    """Return a digest of the file system of *recipe*, without the versions of its packages."""
    told = hashlib.sha256()
    for word in (_LAYOUT, recipe.suite, *_packages(recipe), *_LEFT_OUT):
        told.update(f"{word}\0".encode())
    for path in sorted(_tree().rglob("*")):
        if path.is_file():
            told.update(f"{path.relative_to(_tree())}\0{path.stat().st_mode & 0o111}\0".encode())
            told.update(path.read_bytes())
    return told.hexdigest()[:16]


def make(
    recipe: DiskRecipe, steps: Steps, advance: Callable[[float], None], *, force: bool = False
) -> Path:
    """Return the tarball; make it if it is not in the cache, or with *force*; report to *advance*.

    Raise BuildError with the end of the log, or ImageError.
    """
    path = cache_dir() / "rootfs" / f"{digest(recipe)}.tar"
    if path.is_file() and not force:
        os.utime(path)
        return path
    if os.environ.get(OFFLINE_VARIABLE):
        raise ImageError(
            "this disk image is not in the cache",
            hint=f"unset {OFFLINE_VARIABLE} once, with the network reachable",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if _PACKAGE_STEP.match(line):
            done += 1
            advance(min(done / (_EXPECTED_STEPS + 3 * len(recipe.packages)), 0.95))

    with TemporaryDirectory(dir=path.parent, prefix="new-") as folder:
        made = Path(folder, path.name)
        command = _command(recipe, Path(folder), made)
        steps.run(command, what="mmdebstrap", deadline_s=_DEADLINE_S, on_line=on_line)
        made.replace(path)
    for old in sorted(path.parent.glob("*.tar"), key=lambda tar: -tar.stat().st_mtime)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def take_out(tarball: Path, wanted: str, into: Path) -> Path:
    """Copy the one file whose name in *tarball* matches the pattern *wanted*; return its path."""
    pattern = re.compile(rf"\./{wanted}")
    with tarfile.open(tarball) as tar:
        for member in tar:
            contents = tar.extractfile(member) if pattern.fullmatch(member.name) else None
            if contents is not None and not member.issym():
                path = into / Path(member.name).name
                path.write_bytes(contents.read())
                return path
    raise ImageError(f"the packages of this disk image contain no {wanted}")


def _tree() -> Path:
    return guest_images_dir() / "disk"


def _packages(recipe: DiskRecipe) -> tuple[str, ...]:
    return (recipe.kernel, *_BASE, *recipe.packages)


def _command(recipe: DiskRecipe, folder: Path, target: Path) -> list[str]:
    archive = Archive(Suite.parse(recipe.suite))
    sources, settings = folder / "debian.sources", folder / "apt.conf"
    sources.write_text(archive.entry())
    settings.write_text(machine_settings())
    folder.chmod(0o755)  # without root, mmdebstrap runs as another user
    # sync-in keeps the files' owners, so they are changed to root.
    own = r"find . -xdev \( -path './usr/*' -o -path './etc/*' \) -exec chown -h root:root {} +"
    # fmt: off
    return [
        "env", f"SOURCE_DATE_EPOCH={EPOCH}",
        "mmdebstrap", "--variant=minbase",
        f"--architectures={recipe.architecture.debian}", "--verbose",
        f"--include={','.join(_packages(recipe))}",
        f"--aptopt={settings}",
        *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
        f"--setup-hook=sync-in {_tree()} /",
        f'--setup-hook=cd "$1" && {own}',
        '--customize-hook=chroot "$1" /usr/lib/cvmlab/finish',
        '--customize-hook=rm "$1/usr/lib/cvmlab/finish"',
        str(archive.suite), str(target), str(sources),
    ]
    # fmt: on
