# SPDX-License-Identifier: GPL-2.0-or-later
"""The vmlinux with debug information of a guest's kernel, for debuggers.

It is in the build tree of a user's kernel.  Debian has a package of it for each kernel: large, so
only vmlinux is unpacked, and the newest few are kept.
"""

import re
import subprocess
import tarfile
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from cvmlab.base.errors import CvmError, ImageError
from cvmlab.debian.cache import kept
from cvmlab.debian.packages import OnStep, fetch, silent
from cvmlab.debian.sources import Suite
from cvmlab.images.kernel_tree import build_tree


# Where a kernel of that release may be.
_SUITES = (
    (re.compile(r"[\w.~-]+\+deb13[\w.+~-]*"), (Suite.TRIXIE, Suite.BACKPORTS)),
    (re.compile(r"[\w.~-]+\+deb14[\w.+~-]*"), (Suite.SID,)),
    (re.compile(r"6\.1\.0-\d+-[\w-]+"), (Suite.BOOKWORM,)),
    (re.compile(r"5\.10\.0-\d+-[\w-]+"), (Suite.BULLSEYE,)),
)
_PLACES = re.compile(r"\./usr/lib/debug/(boot/vmlinux-.*|lib/modules/[^/]*/vmlinux)")
_KEPT = 2
_HINT = "give a vmlinux with debug information, with --symbols"


def debug_vmlinux(release: str | None, kernel: Path | None, *, on_step: OnStep = silent) -> Path:
    """Return the vmlinux of the kernel *release*, which was booted from the file *kernel*.

    *on_step* is called before each step that may take long.  Raise ImageError if there is none.
    """
    if kernel is not None and (own := tree_vmlinux(kernel)) is not None:
        return own
    if release is None:
        raise ImageError("nothing tells which kernel the guest runs", hint=_HINT)
    suites = next((known for form, known in _SUITES if form.fullmatch(release)), None)
    if suites is None:
        raise ImageError(f"the kernel {release} is not Debian's", hint=_HINT)
    package = f"linux-image-{release}-dbg"
    deb = _fetch(package, suites, on_step)

    def make(path: Path) -> None:
        on_step(f"unpacking vmlinux of {package}")
        _unpack(deb, path)

    return kept("debug-info", ".vmlinux", [deb.name], make, keep=_KEPT)


def tree_vmlinux(kernel: Path) -> Path | None:
    """Return the vmlinux with debug information of the build tree that *kernel* is in, if there is one."""
    tree = build_tree(kernel)
    own = None if tree is None else tree / "vmlinux"
    return own if own is not None and own.is_file() and has_debug_info(own) else None


def has_debug_info(path: Path) -> bool:
    """Return whether the ELF file *path* has DWARF; raise ImageError if it is no ELF file."""
    try:
        with path.open("rb") as file:
            return ELFFile(file).has_dwarf_info()
    except (OSError, ELFError) as error:
        raise ImageError(f"{path} is not an ELF file: {error}", hint=_HINT) from error


def _fetch(package: str, suites: tuple[Suite, ...], on_step: OnStep) -> Path:
    problem: CvmError | None = None
    for suite in suites:
        try:
            return fetch(package, suite, on_step=on_step)
        except CvmError as error:
            problem = problem or error
    raise ImageError(f"no suite has {package}", hint=_HINT) from problem


def _unpack(deb: Path, into: Path) -> None:
    """Write the vmlinux in *deb* to *into*, without the modules' debug information."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
    ) as unpacking:
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and _PLACES.fullmatch(member.name):
                        _write(archive, member, into)
                        return
        except tarfile.TarError as error:
            raise ImageError(f"{deb} cannot be unpacked: {error}", hint="remove it") from error
        finally:
            unpacking.kill()  # the rest of a large package is not of interest
    raise ImageError(f"{deb} has no vmlinux", hint=_HINT)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    source = archive.extractfile(member)
    if source is not None:
        with source, into.open("wb") as out:
            while piece := source.read(1 << 20):
                out.write(piece)
