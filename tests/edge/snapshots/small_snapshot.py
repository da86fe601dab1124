# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot without a guest: a few small files and their manifest."""

from collections.abc import Mapping

from cvmlab.machine.spec import BootSpec
from cvmlab.snapshots.manifest import BaseDisk, Manifest, StoredFile
from cvmlab.snapshots.spec_document import to_document


FILES = ("private", "table", "ring", "state", "heard", "events.bin")


def manifest_of(files: Mapping[str, StoredFile], disks: tuple[BaseDisk, ...] = ()) -> Manifest:
    return Manifest(
        cvmlab="1", saved="2026-11-30T20:00:00+00:00", qemu_version="10.0.13", qemu_build="b",
        coco="tdx", memory_bytes=1 << 30, debuggable=False,
        holds_private_memory_in_the_clear=True, running=True, standstill_s=0.1, record=7,
        release="6.12", spec=to_document(BootSpec(), {}), files=dict(files), disks=list(disks),
    )  # fmt: skip
