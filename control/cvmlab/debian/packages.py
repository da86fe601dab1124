# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetch Debian packages by name from a suite and unpack them, without installing anything.

Package lists are fetched at most once a day; in between, and while the mirror cannot be reached, the
cache is used as it is.  Files appear complete or not at all, so runs may overlap.
CVMLAB_OFFLINE=1 keeps this module off the network.

    $XDG_CACHE_HOME/cvmlab/apt/SUITE/        configuration, lists; have/NAME -> the last file of NAME
                          /packages/         .deb files; a folder for a source package
                          /unpacked/         their contents
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cvmlab.base.errors import CvmError, ImageError
from cvmlab.base.paths import cache_dir
from cvmlab.debian.apt_call import Archive, run
from cvmlab.debian.sources import Suite
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE


OFFLINE_VARIABLE = "CVMLAB_OFFLINE"
_ARCH = DEFAULT_ARCHITECTURE.debian
_LISTS_LIVE_S = 24 * 3600
_RETRY_AFTER_S = 3600  # a mirror that could not be reached is not tried for each boot
_UNPACK_DEADLINE_S = 300
_TEMPORARY = ".new-"
_ABANDONED_S = 24 * 3600
# A kernel's meta package depends on the kernel; since 6.17 that is several packages itself.
_KERNEL_PART = re.compile(r"\b(linux-(?:image|binary|modules|base)-[\w.+~-]+)")
_VERSIONED = re.compile(r"linux-[a-z]+-\d")

OnStep = Callable[[str], None]


def silent(_step: str) -> None:
    """Ignore progress."""


def fetch(package: str, suite: str, *, arch: str = _ARCH, on_step: OnStep = silent) -> Path:
    """Return the .deb file of the newest *package* of *suite*.  Raise ImageError.

    *on_step* is called before each step that may take long.
    """
    archive = Archive(Suite.parse(suite), arch)
    return _current(archive, package, lambda: _download(archive, package, on_step), on_step)


def fetch_source(package: str, version: str, suite: str, *, on_step: OnStep = silent) -> Path:
    """Return the folder of the newest source *package* of *suite*, verified and not unpacked.

    Raise BuildError, also if its upstream version does not start with *version*.
    """
    archive = Archive(Suite.parse(suite), source=True)

    def make() -> Path:
        return _download(archive, package, on_step, start=f"{package}_{version}")

    return _current(archive, f"{package}_{version}", make, on_step)


def fetch_kernel(package: str, suite: str, *, arch: str = _ARCH, on_step: OnStep = silent) -> Path:
    """Return the unpacked kernel of *package*, a kernel or a meta package.

    The folder has ``boot/vmlinuz-*`` and the modules.
    """
    archive = Archive(Suite.parse(suite), arch)

    def make() -> Path:
        parts = _kernel_parts(archive, package)
        debs = [_download(archive, part, on_step) for part in parts]
        on_step(f"unpacking {parts[0]}")
        return unpack(*debs)

    return _current(archive, _kernel_key(package), make, on_step)


def resolve_kernel(package: str, suite: str, *, arch: str = _ARCH) -> tuple[str, ...]:
    """Return the packages of the kernel that the meta package *package* now depends on."""
    archive = Archive(Suite.parse(suite), arch)
    _refresh(archive, silent)
    return _kernel_parts(archive, package)


def cached_kernel(package: str, suite: str, *, arch: str = _ARCH) -> Path | None:
    """Return the last result of fetch_kernel(), without using the network; None if there is none."""
    return _known(Archive(Suite.parse(suite), arch), _kernel_key(package))


def unpack(*debs: Path, into: Path | None = None) -> Path:
    """Unpack packages over one another into a new folder in *into* (the cache).

    The folder is named by their contents and made once; do not change it.
    """
    parent = into or cache_dir() / "unpacked"
    name = f"{debs[0].name.partition('_')[0]}-{_digest(debs)}"
    if (parent / name).is_dir():
        return parent / name
    with disk_errors(), temporary_folder(parent) as temporary:
        for deb in debs:
            _extract(deb, temporary / name)
        return publish(temporary / name, parent / name)


def _kernel_key(package: str) -> str:
    return f"{package}.unpacked"


def _current(archive: Archive, key: str, make: Callable[[], Path], on_step: OnStep) -> Path:
    """Return the path stored under *key*; make it again if the lists have changed."""
    known = _known(archive, key)
    if known is not None and _is_current(archive, key):
        return known
    try:
        with disk_errors():
            _refresh(archive, on_step)
            path = make()
            _remember(archive, key, path)
    except CvmError:
        if known is None:
            raise
        with suppress(OSError):  # the cache may be read-only
            _stamp(archive, "failed")
        return known
    return path


def _is_current(archive: Archive, key: str) -> bool:
    if _age_s(archive.folder / "failed") < _RETRY_AFTER_S:
        return True
    lists = _age_s(archive.folder / "updated")
    return lists < _LISTS_LIVE_S and _age_s(archive.folder / "have" / key) <= lists


def _refresh(archive: Archive, on_step: OnStep) -> None:
    if _age_s(archive.folder / "updated") < _LISTS_LIVE_S:
        return
    if os.environ.get(OFFLINE_VARIABLE):
        raise archive.error(
            f"the package lists of {archive.suite} are not in the cache, or too old",
            hint=f"unset {OFFLINE_VARIABLE} once, with the network reachable",
        )
    on_step(f"fetching the package lists of {archive.suite}")
    archive.update()
    _stamp(archive, "updated")


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _stamp(archive: Archive, name: str) -> None:
    archive.folder.mkdir(parents=True, exist_ok=True)
    (archive.folder / name).touch()


def _known(archive: Archive, key: str) -> Path | None:
    path = archive.folder / "have" / key
    return path.resolve() if path.exists() else None


def _remember(archive: Archive, key: str, target: Path) -> None:
    have = archive.folder / "have"
    have.mkdir(parents=True, exist_ok=True)
    temporary = have / f"{key}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(have / key)


def _download(archive: Archive, package: str, on_step: OnStep, *, start: str = "") -> Path:
    """Download; if that fails, try again with new lists, because the mirror may have changed."""
    try:
        return _download_as_listed(archive, package, on_step, start)
    except CvmError:
        if os.environ.get(OFFLINE_VARIABLE):
            raise
        archive.update()
        _stamp(archive, "updated")
        return _download_as_listed(archive, package, on_step, start)


def _download_as_listed(archive: Archive, package: str, on_step: OnStep, start: str) -> Path:
    folder = cache_dir() / "packages"
    have = folder / _target_name(archive, package)
    if not have.name.startswith(start):
        raise archive.error(f"the newest {package} of the suite {archive.suite} is {have.name}")
    if have.exists():
        return have
    on_step(f"fetching {package} ({archive.suite})")
    with temporary_folder(folder) as temporary:
        target = temporary / have.name if archive.source else temporary
        target.mkdir(exist_ok=True)
        archive.download(package, target)
        return publish(temporary / have.name, have)


def _target_name(archive: Archive, package: str) -> str:
    """Return apt's name for the file; for sources, that of the .dsc without its suffix."""
    lines = [line for line in archive.uris(package).splitlines() if line.startswith("'")]
    names = [line.split("' ", 1)[1].split()[0] for line in lines]
    if archive.source:
        names = [name.removesuffix(".dsc") for name in names if name.endswith(".dsc")]
    if len(names) != 1:
        raise archive.error(
            f"the suite {archive.suite} has no package {package}", hint="check name and suite"
        )
    return names[0]


def _kernel_parts(archive: Archive, package: str) -> tuple[str, ...]:
    """Return the packages with files of the kernel: those with a version in their name."""
    parts: list[str] = []
    ahead, seen = [package], {package}
    while ahead:
        name = ahead.pop(0)
        if _VERSIONED.match(name):
            parts.append(name)
        fields = dict(
            line.split(": ", 1) for line in archive.show(name).splitlines() if ": " in line
        )
        for needed in _KERNEL_PART.findall(fields.get("Depends", "")):
            if needed not in seen:
                seen.add(needed)
                ahead.append(needed)
    if not parts:
        raise ImageError(
            f"{package} ({archive.suite}) is not a kernel and depends on none",
            hint=f"name a package such as linux-image-cloud-{archive.arch}",
        )
    return tuple(sorted(parts, key=lambda name: (not name.startswith("linux-image-"), name)))


def _extract(deb: Path, into: Path) -> None:
    status, _, errors = run(
        ["dpkg-deb", "--extract", str(deb), str(into)],
        what=f"unpacking {deb.name}",
        deadline_s=_UNPACK_DEADLINE_S,
    )
    if "No space left" in errors:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into))
    if status != 0:
        raise ImageError(
            f"{deb} cannot be unpacked: {(errors.strip().splitlines() or ['?'])[-1]}",
            hint="remove it; it is fetched again",
        )


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in *parent*, on the same file system, and remove it at the end.

    A later run removes a folder that a killed run left behind.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_TEMPORARY}*"):
        if _age_s(left) > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, place: Path) -> Path:
    """Move *made* to its *place*; if another run was first, keep its result."""
    try:
        made.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    return place


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn the error of a full or read-only disk into an ImageError."""
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"cannot write to the cache {cache_dir()}: {error.strerror}",
            hint="free some space there, or point XDG_CACHE_HOME elsewhere",
        ) from error
