# SPDX-License-Identifier: GPL-2.0-or-later
"""The boots that a profile of QEMU is made from, for `cvmlab build --pgo`."""

from collections.abc import Callable
from pathlib import Path

from cvmlab.base.errors import BuildError
from cvmlab.profiles.architecture import Architecture


_DEADLINE_S = 600.0  # a QEMU that counts is some times slower


def training(*, stock: bool, architecture: Architecture) -> Callable[[Path], None]:
    """Return what boots a stock kernel in the QEMU that it is given, which ends by QMP's `quit`."""

    def train(qemu: Path) -> None:
        # Only a build with a profile comes here, so only it waits for these imports.
        from cvmlab import SyncVm, images
        from cvmlab.qemu.firmware import rom_dirs

        guest = images.resolve(arch=architecture, exec_command="true")
        for coco in _attesting(architecture) if not stock else ("off",):
            with SyncVm(
                arch=architecture,
                coco=coco,
                kernel=guest.kernel,
                initrd=guest.initrd,
                append=guest.append,
                rom_dirs=tuple(rom_dirs(architecture)),
                qemu=qemu,
                start_timeout_s=_DEADLINE_S,
                stop_timeout_s=_DEADLINE_S,
            ) as vm:
                outcome = vm.wait_exit(timeout_s=_DEADLINE_S)
            if outcome.failed:
                raise BuildError(f"the boot for a profile failed ({coco}): {outcome.detail}")

    return train


def _attesting(architecture: Architecture) -> tuple[str, ...]:
    """Return the newest technology of each vendor: those are the ones that attest; else no profile."""
    from cvmlab.profiles.profile_rows import NO_PROFILE, PROFILES

    there = (row for row in PROFILES if architecture.name in row.architectures)
    return tuple(row.name for row in there if row.attestation is not None) or (NO_PROFILE,)
