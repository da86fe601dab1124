# SPDX-License-Identifier: GPL-2.0-or-later
"""A BootSpec becomes a document, and the same BootSpec again."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cvmlab.machine.disk_format import DiskFormat
from cvmlab.machine.spec import (
    AccessPolicy,
    BootSpec,
    Disk,
    DiskInterface,
    EventLoss,
    Firmware,
    Net,
    OnPanic,
    PendingPolicy,
    Stacks,
)
from cvmlab.memory.states import Layout
from cvmlab.profiles.architecture import AARCH64
from cvmlab.snapshots.spec_document import from_document, to_document


FOLDER = Path("/snapshot")
# Every field has another value than its default; the test below asks for it.
FULL = BootSpec(
    coco="sev-snp", guest_options=("a=b",), mapgpa="all", ripas="refuse", quote_socket=Path("/q"), quotes=True,
    attest=Path("/a"), attest_options=("pce-svn=9",), attest_serve=8081, quote_fault="never",
    memory_bytes=2 << 30, cpu="milan", cpus=2, tb_cache_bytes=64 << 20, kernel=Path("/k"),
    initrd=Path("/i"), append="quiet",
    disks=(Disk(Path("/d"), DiskInterface.NVME, DiskFormat.RAW, "7"),), share=Path("/s"),
    net=Net.USER, devices=("edu",), firmware=Path("/f"), on_host_access=AccessPolicy.ZERO,
    pending=PendingPolicy.STOP, events=EventLoss.LOSSLESS, layout=Layout.IN_PLACE, gdb="tcp::1",
    debuggable=True, stacks=Stacks.OFF, iommu_platform=True, allow_reboot=True, allow_unaware=True,
    fail_on=("x",), on_panic=OnPanic.WAIT, rng_seed=3, rom_dirs=(Path("/r"),), extra=("-e",), architecture=AARCH64,
)  # fmt: skip


def through_text(spec: BootSpec, own: dict[Path, str]) -> BootSpec:
    return from_document(json.loads(json.dumps(to_document(spec, own))), FOLDER)


def test_every_field_survives() -> None:
    default = BootSpec()
    rows = ("profiles",)
    same = [
        field.name
        for field in fields(BootSpec)
        if field.name not in rows and getattr(FULL, field.name) == getattr(default, field.name)
    ]
    assert same == []
    assert through_text(FULL, {}) == FULL
    assert through_text(default, {}) == default


def test_own_files_are_in_the_folder() -> None:
    found = through_text(FULL, {Path("/k"): "kernel", Path("/f"): "firmware"})
    assert found == replace(FULL, kernel=FOLDER / "kernel", firmware=FOLDER / "firmware")
    assert through_text(BootSpec(firmware=Firmware.OVMF), {}).firmware is Firmware.OVMF


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus", "2"), ("cpus", True), ("kernel", "/k"), ("kernel", {"file": "../k"}),
        ("kernel", {"path": "k"}), ("disks", {}), ("disks", [{}]), ("net", "token-ring"),
        ("firmware", 5), ("append", None), ("coco", ["tdx"]),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(name: str, value: Any) -> None:
    document = to_document(FULL, {}) | {name: value}
    with pytest.raises(ValueError, match=f"{name} makes no sense|no description of a Disk"):
        from_document(document, FOLDER)


def test_another_version_is_refused() -> None:
    document = to_document(FULL, {})
    wrongs: tuple[Any, ...] = (document | {"more": 1}, {}, [], None)
    for wrong in wrongs:
        with pytest.raises(ValueError, match="no description of a BootSpec of this version"):
            from_document(wrong, FOLDER)
