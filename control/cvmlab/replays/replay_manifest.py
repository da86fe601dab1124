# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a recorded boot: what ran, in what, and how its files are known again.  Pure."""

from typing import Any

import msgspec

from cvmlab.snapshots.manifest import (
    CONSOLE,
    EVENTS,
    EXEC,
    FIRMWARE,
    INITRD,
    KERNEL,
    BaseDisk,
    StoredFile,
    read_manifest,
)


FORMAT = 2
MANIFEST, UNFINISHED = "recording.json", "recording.json.new"
LOG = "execution.log"  # QEMU's: all that came from outside, and when
AGAIN = "record the boot again"
NEEDED = frozenset({LOG, EVENTS})
NAMES = frozenset({MANIFEST, UNFINISHED, LOG, EVENTS, CONSOLE, EXEC, KERNEL, INITRD, FIRMWARE})


class ReplayManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``recording.json`` says.

    ``records`` is the number of records in the journal.
    """

    format: int = FORMAT
    cvmlab: str
    recorded: str
    qemu_version: str
    qemu_build: str
    coco: str
    records: int
    release: str | None
    spec: dict[str, Any]
    files: dict[str, StoredFile]
    disks: list[BaseDisk]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def decode(text: bytes, *, where: str) -> ReplayManifest:
    """Read a manifest; raise ConfigError if it is none of this version.  *where* names the file."""
    return read_manifest(text, ReplayManifest, "recording", AGAIN, where=where, version=FORMAT)
