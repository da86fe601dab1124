# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VMs may be given another QEMU, and what is said of those that may not."""

from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec, Disk, DiskInterface
from cvmlab.memory.states import profiles
from cvmlab.vm.upgrade import require_upgradable


GOOD = BootSpec(coco="tdx")
DISK = Disk(Path("disk.raw"))
BAD = (
    (
        replace(GOOD, coco="off"),
        "profile off cannot move to another QEMU: its memory belongs to the QEMU process",
    ),
    (replace(GOOD, disks=(replace(DISK, interface=DiskInterface.NVME),)), "with an NVMe disk"),
    (replace(GOOD, disks=(DISK,)), "this VM's disks cannot be handed over"),
    (replace(GOOD, gdb="tcp::1234"), "with a gdb server cannot be upgraded"),
)


@pytest.mark.parametrize("coco", ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"])
def test_a_guest_whose_state_travels_may_be_upgraded(coco: str) -> None:
    assert coco in profiles()
    require_upgradable(replace(GOOD, coco=coco), ())


def test_a_disk_whose_overlay_is_a_file_of_ours_goes_along() -> None:
    require_upgradable(replace(GOOD, disks=(DISK,)), (Path("overlay.qcow2"),))


@pytest.mark.parametrize(("spec", "sentence"), BAD, ids=lambda value: str(value)[:40])
def test_a_vm_that_cannot_be_upgraded_is_refused_with_a_hint(spec: BootSpec, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        require_upgradable(spec, ())
    assert refused.value.hint


def test_a_recorded_vm_stays_in_its_qemu() -> None:
    with pytest.raises(ConfigError, match="its log is one QEMU's"):
        require_upgradable(GOOD, (), is_logged=True)
