# SPDX-License-Identifier: GPL-2.0-or-later
"""Which machine can boot from a disk, and what a guest on one can be told.  Pure."""

from cvmlab.base.errors import ConfigError
from cvmlab.boot.words import GuestWords
from cvmlab.machine.spec import AccessPolicy, BootSpec, Firmware
from cvmlab.memory.states import Layout
from cvmlab.profiles.profile import Profile, Profiles, either


_CLOUD_INIT = "cloud-init"


def default_firmware(guest: GuestWords, machine: BootSpec) -> Firmware:
    """Return the firmware that can boot *guest*, where none is named."""
    if guest.disk_recipe is not None:
        return Firmware.OVMF
    if not guest.boots_from_disk:
        return Firmware(machine.architecture.kernel_firmware)
    return Firmware(machine.profile.sharing_firmware or machine.architecture.disk_firmware)


def require_bootable(guest: GuestWords, spec: BootSpec) -> None:
    """Raise ConfigError if *spec* cannot boot *guest*, or if an option cannot reach it."""
    _require_user_data(guest)
    if guest.share is not None:
        _require_access(spec, "use --share", "the guest does not share its buffers with devices")
    if not guest.boots_from_disk:
        return
    for option, given in (("--append", guest.append), ("--initrd", guest.initrd)):
        if given is not None:
            raise ConfigError(
                f"{option} has no effect on a guest that boots from its own disk",
                hint="add --kernel, or boot an image that is not a disk",
            )
    if spec.firmware is Firmware.DIRECT:
        raise ConfigError(
            "--firmware direct starts a kernel, and a disk needs firmware that looks for one",
            hint="--firmware ovmf, or give a kernel with --kernel",
        )
    if spec.firmware is Firmware.SEABIOS and guest.disk_recipe is not None:
        raise ConfigError(f"{guest.image} boots by EFI only", hint="--firmware ovmf")
    refusal = spec.profile.disk_refusal(str(spec.firmware))
    if refusal is not None:
        raise ConfigError(
            f"{refusal}, so a {spec.coco} guest cannot boot from a disk",
            hint=f"--firmware {spec.profile.sharing_firmware}",
        )
    _require_access(spec, "boot from a disk", "the firmware does not share its disk buffers")


def _require_user_data(guest: GuestWords) -> None:
    if guest.user_data is None:
        return
    if not guest.boots_from_disk:
        raise ConfigError(
            "--user-data needs a guest that boots from a disk with cloud-init",
            hint="give the disk with --disk and no kernel, or boot debian-cloud",
        )
    if guest.disk_recipe is not None and _CLOUD_INIT not in guest.disk_recipe.packages:
        raise ConfigError(
            f"--user-data: {guest.image} does not have cloud-init", hint="use debian-cloud"
        )


def _require_access(spec: BootSpec, what: str, why: str) -> None:
    """If nobody in the guest shares a device's buffers, the policy has to let the host in.

    Firmware and kernel are alike in that: where firmware shares by itself, the kernel does, too.
    """
    hopeless = (AccessPolicy.DENY, AccessPolicy.ZERO)
    if spec.profile.sharing_firmware is not None or not spec.restricted:
        return
    if spec.on_host_access not in hopeless:
        return
    can_share = spec.memory_layout is Layout.IN_PLACE
    others = either(_that_boot_from_disk(spec.profiles, spec.architecture.name))
    raise ConfigError(
        f"a {spec.coco} guest with --on-host-access {spec.on_host_access} cannot {what}: {why}",
        hint="--on-host-access share" if can_share else f"--coco {others}",
    )


def _that_boot_from_disk(known: Profiles, architecture: str) -> tuple[str, ...]:
    def can(row: Profile) -> bool:
        by_itself = not row.restricted or row.sharing_firmware is not None
        boots = by_itself or known.layout(row.name) is Layout.IN_PLACE
        return boots and architecture in row.architectures

    return known.where(can)
