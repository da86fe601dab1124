# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a snapshot: what was saved, by what, and how its files are known again.  Pure."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe_line


Kept = TypeVar("Kept")
FORMAT = 2  # 1 had SHA-256, which took longer than all else
AGAIN = "save the VM again"
MANIFEST = "manifest.json"
# Images of memory: sparse, and as large as the file that they are copied into.
PRIVATE, SHARED, TABLE, RING, STACKS = "private", "shared", "table", "ring", "stacks"
IMAGES = (PRIVATE, SHARED, TABLE, RING, STACKS)
STATE = "state"  # CPUs, devices and other RAM, as QEMU wrote them
HEARD = "heard"  # what the controller had read of the guest's output
NEEDED = frozenset({PRIVATE, TABLE, RING, STATE, HEARD, "events.bin"})
EVENTS, CONSOLE, EXEC = "events.bin", "console.log", "exec.log"
KERNEL, INITRD, FIRMWARE = "kernel", "initrd", "firmware"
# All but the guest's writes to its disks.
NAMES = frozenset({*IMAGES, STATE, HEARD, EVENTS, CONSOLE, EXEC, KERNEL, INITRD, FIRMWARE})


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the snapshot; ``digest`` is that of sparse.digest().

    ``extents`` of a compressed file are where its content belongs, ``bytes`` is what it had before.
    """

    digest: str
    bytes: int
    extents: list[tuple[int, int]] | None = None


class BaseDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk image that stays where it is: the snapshot has only what the guest wrote over it."""

    path: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "BaseDisk":
        """Describe the image at *path* as it is now; raise OSError if it is not there."""
        found = path.stat()
        return cls(str(path.absolute()), found.st_size, found.st_mtime_ns)

    def require_unchanged(self, what: str, again: str) -> None:
        """Raise ConfigError if it is another one now: *what* needs it, and *again* makes a new one."""
        try:
            now = BaseDisk.of(Path(self.path))
        except OSError as error:
            raise ConfigError(
                f"the {what} needs the disk {self.path}: {error.strerror}",
                hint=f"put it back, or {again}",
            ) from error
        if now != self:
            raise ConfigError(
                f"the disk {self.path} has changed since the {what} was made",
                hint=f"a guest would find files of two times mixed: {again}",
            )


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``manifest.json`` says.

    ``holds_private_memory_in_the_clear`` is a warning: the snapshot has what the guest's owner sees,
    also of a VM that shows its host nothing.  ``record`` is the number of the last journal record, ``standstill_s`` how long the guest
    stood still.
    ``key`` is that of a warm boot.
    """

    format: int = FORMAT
    cvmlab: str
    saved: str
    qemu_version: str
    qemu_build: str
    coco: str
    memory_bytes: int
    debuggable: bool
    holds_private_memory_in_the_clear: bool
    running: bool
    standstill_s: float
    record: int
    release: str | None
    spec: dict[str, Any]
    files: dict[str, StoredFile]
    disks: list[BaseDisk]
    key: str | None = None

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def decode(text: bytes, *, where: str) -> Manifest:
    """Read a manifest; raise ConfigError if it is none of this version.  *where* names the file."""
    return read_manifest(text, Manifest, "snapshot", AGAIN, where=where, version=FORMAT)


def read_manifest(
    text: bytes, kind: type[Kept], what: str, again: str, *, where: str, version: int
) -> Kept:
    """Read the manifest of *what*, a document of *kind* and *version*.

    :raise ConfigError: it is none; the hint is to do *again* what makes one.
    """
    try:
        found = msgspec.json.decode(text)
        told = found.get("format") if isinstance(found, dict) else None
        if told != version:
            raise ConfigError(
                f"{where} is a {what} of format {safe_line(str(told))}, not {version}",
                hint=f"another version of cvmlab made it: {again}",
            )
        return msgspec.convert(found, kind)
    except NO_DOCUMENT as error:
        raise ConfigError(
            f"{where} is no manifest of a {what}: {safe_line(str(error))}", hint=again
        ) from error
