# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a recorded boot: what ran, in what, and how its files are known again.  Pure."""

from typing import Any

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError
from cvmlab.base.safe_text import safe_line
from cvmlab.snapshots.manifest import BaseDisk, StoredFile


FORMAT = 1
MANIFEST, UNFINISHED = "recording.json", "recording.json.new"
LOG = "execution.log"  # QEMU's: all that came from outside, and when
EVENTS, CONSOLE, EXEC = "events.bin", "console.log", "exec.log"
KERNEL, INITRD, FIRMWARE = "kernel", "initrd", "firmware"
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
    try:
        found = msgspec.json.decode(text)
        told = found.get("format") if isinstance(found, dict) else None
        if told != FORMAT:
            raise ConfigError(
                f"{where} is a recording of format {safe_line(str(told))}, not {FORMAT}",
                hint="another version of cvmlab made it: record the boot again",
            )
        return msgspec.convert(found, ReplayManifest)
    except NO_DOCUMENT as error:
        raise ConfigError(
            f"{where} is no manifest of a recording: {safe_line(str(error))}",
            hint="record the boot again",
        ) from error
