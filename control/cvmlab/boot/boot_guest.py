# SPDX-License-Identifier: GPL-2.0-or-later
"""From words to the guest's files, its command line, and how its functions are named."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cvmlab.base.errors import ConfigError
from cvmlab.base.progress import Style
from cvmlab.boot.disk_files import disk_guest, shared_disks
from cvmlab.boot.kernel_code import KernelCode
from cvmlab.boot.words import GuestWords, Words
from cvmlab.debian.packages import OnStep
from cvmlab.images.boot_files import BootFiles, image_has, resolve
from cvmlab.images.guest_files import GuestFiles, no_module
from cvmlab.images.initrd_contents import InitrdModules
from cvmlab.images.kernel_image import KernelImage, identify
from cvmlab.images.kernel_tree import has_9p, kernel_config, missing_for_a_disk
from cvmlab.machine.spec import BootSpec, DiskInterface, Firmware, Net
from cvmlab.profiles.architecture import Architecture


# NVMe is built into Debian's cloud kernels.
_DISK_DRIVERS: Mapping[DiskInterface, tuple[str, ...]] = {
    DiskInterface.VIRTIO_BLK: ("virtio_blk",),
    DiskInterface.NVME: (),
    DiskInterface.AHCI: ("ahci", "sd_mod"),
}
_NINE_P_DRIVERS = ("9pnet_virtio", "9p")
_SHARED_DISK_DRIVERS = ("virtio_blk", "ext4")
_NET_DRIVERS = ("virtio_net",)
_SHELL = "cvmlab.shell"  # makes our init start a shell on the console
# An event's address names a function only if the kernel runs where it was linked.
_NO_KASLR = "nokaslr"
_KASLR = frozenset({_NO_KASLR, "kaslr"})


def guest_of(words: Words, on_step: OnStep, style: Style) -> GuestFiles:
    """Return the files of the guest that *words* name, fetched and built where they have to be."""
    guest = words.guest
    if guest.boots_from_disk:
        return disk_guest(guest, words.machine.architecture, style)
    by_9p = guest.share is not None and _has_9p(guest, words.machine.architecture, on_step)
    files = resolve(
        guest.image,
        kernel=guest.kernel,
        initrd=guest.initrd,
        append=_append(guest),
        extra_modules=() if guest.initrd else _drivers(guest, words.machine, by_9p=by_9p),
        exec_command=guest.exec,
        share=guest.share is not None,
        arch=words.machine.architecture,
        on_step=on_step,
    )
    parameters = f"{words.machine.architecture.append} {files.append}".split()
    is_linux = _identified(files.kernel, words.machine).is_linux
    if is_linux and _KASLR.isdisjoint(parameters):
        files = replace(files, append=f"{_NO_KASLR} {files.append}".rstrip())
        parameters.append(_NO_KASLR)
    kernel = KernelCode(files.kernel)
    return GuestFiles(
        kernel=files.kernel,
        initrd=files.initrd,
        append=files.append,
        late_disks=() if by_9p else shared_disks(guest.share),
        share=guest.share if by_9p else None,
        release=files.release,
        is_linux=is_linux,
        fixed_addresses=not is_linux or _NO_KASLR in parameters,
        load_config=partial(kernel_config, files.origin),
        load_symbols=partial(kernel.symbols, guest.symbols or files.system_map),
        load_code=kernel.code,
        module_file=_module_file(files),
    )


def _module_file(files: BootFiles) -> Callable[[str], bytes | None]:
    """Return what reads a module: from the kernel's package, or else from the initrd."""
    if files.modules is not None:
        return files.modules.contents
    return no_module if files.initrd is None else InitrdModules(files.initrd).contents


def _identified(kernel: Path, machine: BootSpec) -> KernelImage:
    image = identify(kernel)
    if image.needs_efi and machine.firmware in (Firmware.SEABIOS, Firmware.DIRECT):
        who = "SeaBIOS" if machine.firmware is Firmware.SEABIOS else "QEMU"
        raise ConfigError(
            f"{kernel} is an {image.kind}, which {who} does not start",
            hint="add --firmware ovmf",
        )
    return image


def _append(guest: GuestWords) -> str:
    given = guest.append or ""
    wants_shell = guest.console and guest.exec is None and guest.initrd is None
    return f"{_SHELL} {given}".rstrip() if wants_shell else given


def _has_9p(guest: GuestWords, architecture: Architecture, on_step: OnStep) -> bool:
    """Return whether the guest gets its shared folder by 9p; raise ConfigError if by no way."""
    if guest.kernel is not None:
        by_9p = has_9p(guest.kernel)
        missing = () if by_9p or guest.initrd is not None else missing_for_a_disk(guest.kernel)
        if missing:
            raise ConfigError(
                f"--share: {guest.kernel} has no {', '.join(missing)} built in, and there are no "
                "modules of it to load",
                hint="build them in, or give an initrd that loads them",
            )
        return by_9p
    if guest.initrd is not None:
        return False  # what it loads is not known; a disk needs the fewest drivers
    return image_has(guest.image, _NINE_P_DRIVERS, arch=architecture, on_step=on_step)


def _drivers(guest: GuestWords, machine: BootSpec, *, by_9p: bool) -> tuple[str, ...]:
    """Name the modules that an image of ours needs for the devices it is given."""
    if guest.kernel is not None:
        return ()  # its modules are not known
    disk = _DISK_DRIVERS[guest.disk_interface] if machine.disks else ()
    shared = () if guest.share is None else _NINE_P_DRIVERS if by_9p else _SHARED_DISK_DRIVERS
    net = _NET_DRIVERS if machine.net is Net.USER else ()
    return (*disk, *shared, *net, *_tsm_drivers(guest, machine))


def _tsm_drivers(guest: GuestWords, machine: BootSpec) -> tuple[str, ...]:
    attestation = machine.profile.attestation if machine.has_quotes else None
    if attestation is None:
        return ()
    helpers = (
        name
        for name in attestation.driver_helpers
        if image_has(guest.image, (name,), arch=machine.architecture)
    )
    return (*helpers, attestation.driver)
