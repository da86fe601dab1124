# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot's folder: written beside its place and moved there whole, read with its digests."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, final

from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.snapshots import manifest as parts
from cvmlab.snapshots import sparse
from cvmlab.snapshots.manifest import MANIFEST, Manifest, StoredFile
from cvmlab.snapshots.spec_document import from_document


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NEW: Final = ".new-"
_MOST_BYTES: Final = 1 << 46
_MARK: Final = ".cvmlab-snapshot"  # in a folder that is being written
_NAMES: Final = parts.NAMES | {MANIFEST, _MARK, ".private.zst", ".shared.zst", "writes"}
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HINT = "free some space, or choose another place"


@contextmanager
def being_written(place: Path) -> Iterator[Path]:
    """Yield a new folder that becomes *place* at the end: others see the old one or the new one.

    If the block raises, there is nothing new.  :raise ConfigError: the disk is full, or not ours.
    """
    fresh = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place.parent)
        prefix = f".{place.name}{_NEW}{os.getpid()}-"
        fresh = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
        (fresh / _MARK).touch()
        yield fresh
        (fresh / _MARK).unlink()
        _put(fresh, place)
    except OSError as error:
        raise not_written(place, error) from error
    finally:
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)


def not_written(place: Path, error: OSError) -> ConfigError:
    """Return the error of a snapshot that cannot be written."""
    about = f" ({error.filename})" if error.filename else ""
    return ConfigError(
        f"the snapshot {place} cannot be written: {error.strerror}{about}",
        hint=_HINT if error.errno in _NO_SPACE else None,
    )


def _put(fresh: Path, place: Path) -> None:
    if not place.exists():
        fresh.rename(place)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    swap = (_AT_FDCWD, os.fsencode(fresh), _AT_FDCWD, os.fsencode(place), _RENAME_EXCHANGE)
    if libc.renameat2(*swap) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def remove_leftovers(parent: Path) -> None:
    """Remove what writers that were killed have left in *parent*."""
    for path in parent.glob(f".*{_NEW}*"):
        pid = path.name.rpartition(_NEW)[2].partition("-")[0]
        if _is_ours(path) and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Return whether there is nothing but what a snapshot has: its writer may have ended anywhere."""
    return folder.is_dir() and all(
        entry.name in _NAMES or fnmatch(entry.name, "disk*.qcow2") for entry in folder.iterdir()
    )


def store_file(folder: Path, name: str, *, compress: bool) -> StoredFile:
    """Return the entry of a file that is in *folder*, compressed if that is asked for."""
    path = folder / name
    with _opened(path) as fd:
        size = os.fstat(fd).st_size
        if not compress:
            return StoredFile(sparse.digest(fd), size)
        packed = path.with_name(f".{name}.zst")
        with packed.open("w+b") as target:
            extents = sparse.compress(fd, target.fileno())
            found = sparse.digest(target.fileno())
        packed.replace(path)
    return StoredFile(found, size, extents)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        yield fd
    finally:
        os.close(fd)


@final
class SnapshotFolder:
    """A snapshot on disk.  Use open(); ``spec`` is its VM, with the files that the folder has."""

    def __init__(self, path: Path, manifest: Manifest, spec: BootSpec) -> None:
        self.path = path
        self.manifest = manifest
        self.spec = spec
        self.is_to_be_verified = True

    @classmethod
    def passing(cls, path: Path, manifest: Manifest, spec: BootSpec) -> "SnapshotFolder":
        """Return one that nobody else reads; *path* is removed with the last reference to it."""
        made = cls(path, manifest, spec)
        made.is_to_be_verified = False
        weakref.finalize(made, shutil.rmtree, path, ignore_errors=True)
        return made

    @classmethod
    def open(cls, path: Path) -> "SnapshotFolder":
        """Read the manifest; raise ConfigError if there is none, or what it needs is not there."""
        path = path.absolute()
        try:
            text = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path} is no snapshot: {error.strerror}", hint="`cvmlab snapshot list` lists them"
            ) from error
        manifest = parts.decode(text, where=str(path / MANIFEST))
        try:
            spec = from_document(manifest.spec, path)
        except ValueError as error:
            raise ConfigError(
                f"{path}: its VM cannot be described: {error}", hint="save the VM again"
            ) from error
        found = cls(path, manifest, spec)
        found._require_files()
        found.require_disks()
        return found

    def _require_files(self) -> None:
        names = set(self.manifest.files)
        missing = sorted(parts.NEEDED - names)
        if missing:
            raise self._damaged(missing[0], "it is not in the manifest")
        odd = sorted(name for name in names if "/" in name or name.startswith("."))
        if odd:
            raise self._damaged(odd[0], "this is no name of a file of a snapshot")
        for name, entry in self.manifest.files.items():
            ends = [at + length for at, length in entry.extents or ()]
            if not 0 <= entry.bytes <= _MOST_BYTES or any(
                not 0 <= end <= entry.bytes for end in ends
            ):
                raise self._damaged(name, "its size makes no sense")

    def require_disks(self) -> None:
        """Raise ConfigError if a disk below the guest's writes is not what it was."""
        for disk in self.manifest.disks:
            disk.require_unchanged("snapshot", parts.AGAIN)

    def verify(self) -> None:
        """Raise ConfigError that names the first file which is not as it was saved."""
        for name, entry in self.manifest.files.items():
            try:
                with _opened(self.path / name) as fd:
                    found = sparse.digest(fd)
            except OSError as error:
                raise self._damaged(name, error.strerror or "it cannot be read") from error
            if found != entry.digest:
                raise self._damaged(name, f"its digest is {found[:16]}…, not {entry.digest[:16]}…")

    def _damaged(self, name: str, why: str) -> ConfigError:
        return ConfigError(
            f"the snapshot {self.path} is damaged: {name}: {why}", hint="save the VM again"
        )

    def sizes(self) -> dict[str, int]:
        """Return how large each image was, by its name; bytes."""
        files = self.manifest.files
        return {name: files[name].bytes for name in parts.IMAGES if name in files}

    def fill(self, name: str, target: int, ranges: Iterable[tuple[int, int]] | None = None) -> None:
        """Copy an image into the file *target*; raise ConfigError if it does not fit.

        With *ranges*, only what lies in them: a snapshot may have lost its holes on its way.
        """
        entry = self.manifest.files[name]
        if os.fstat(target).st_size != entry.bytes:
            raise self._damaged(name, f"it has {entry.bytes} bytes")
        try:
            with _opened(self.path / name) as source:
                if entry.extents is None:
                    sparse.copy(source, target, ranges)
                else:
                    sparse.decompress(source, target, entry.extents)
        except (OSError, ValueError) as error:
            raise self._damaged(name, str(error)) from error

    def take(self, name: str, target: Path) -> None:
        """Copy a small file to *target*, if the snapshot has it."""
        with suppress(FileNotFoundError):
            self._copy(self.path / name, target)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with ExitStack() as stack:
            fd = stack.enter_context(_opened(source))
            made = stack.enter_context(target.open("wb"))
            made.truncate(os.fstat(fd).st_size)
            sparse.copy(fd, made.fileno())
