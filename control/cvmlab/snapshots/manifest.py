# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a snapshot: what was saved, by what, and how its files are known again.  Pure."""

from typing import Any

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe_line


FORMAT = 1
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
    """A file of the snapshot; ``sha256`` is that of sparse.digest().

    ``extents`` of a compressed file are where its content belongs, ``bytes`` is what it had before.
    """

    sha256: str
    bytes: int
    extents: list[tuple[int, int]] | None = None


class BaseDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk image that stays where it is: the snapshot has only what the guest wrote over it."""

    path: str
    bytes: int
    mtime_ns: int


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
    try:
        found = msgspec.json.decode(text)
        told = found.get("format") if isinstance(found, dict) else None
        if told != FORMAT:
            raise ConfigError(
                f"{where} is a snapshot of format {safe_line(str(told))}, not {FORMAT}",
                hint="another version of cvmlab made it: save the VM again",
            )
        return msgspec.convert(found, Manifest)
    except NO_DOCUMENT as error:
        raise ConfigError(
            f"{where} is no manifest of a snapshot: {safe_line(str(error))}",
            hint="save the VM again",
        ) from error
