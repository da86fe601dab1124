# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that a request asks for: its files, its command line, and how its functions are named."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cvmlab.bootdisk import boots_from_disk, disk_guest, shared_disks
from cvmlab.bootrequest import Request
from cvmlab.bootspec import DEFAULT_APPEND, DiskInterface, Net
from cvmlab.errors import ConfigError
from cvmlab.guestfiles import Guest
from cvmlab.images import image_has, resolve
from cvmlab.kernel_image import KernelKind, extract_vmlinux, identify
from cvmlab.kerneltree import has_9p
from cvmlab.packages import OnStep
from cvmlab.progress import Style
from cvmlab.symbols import Symbols, from_elf, load


# NVMe is built into Debian's cloud kernels.
_DISK_DRIVERS: Mapping[DiskInterface, tuple[str, ...]] = {
    DiskInterface.VIRTIO_BLK: ("virtio_blk",),
    DiskInterface.NVME: (),
    DiskInterface.AHCI: ("ahci", "sd_mod"),
}
_NINE_P_DRIVERS = ("9pnet_virtio", "9p")
_SHARED_DISK_DRIVERS = ("virtio_blk", "ext4")
_NET_DRIVERS = ("virtio_net",)
# configfs-tsm, by profile.
_TSM_DRIVERS: Mapping[str, str] = {"tdx": "tdx-guest", "sev-snp": "sev-guest"}
# What the driver of 6.12 seals with, which no list of dependencies names; later ones need none of it.
_SEALING = ("gcm", "ctr", "ghash_generic")
_SHELL = "cvmlab.shell"  # has our init give a shell on the console
# An event's address names a function only if the kernel is where it was linked.
_NO_KASLR = "nokaslr"
_KASLR = frozenset({_NO_KASLR, "kaslr"})


def guest_of(request: Request, on_step: OnStep, style: Style) -> Guest:
    """Return the guest that *request* names, fetched and built where it has to be."""
    if boots_from_disk(request):
        return disk_guest(request, style)
    if request.user_data is not None:
        raise ConfigError(
            "--user-data is for cloud-init on a disk, and this guest boots from none of its own",
            hint="give the disk with --disk and no kernel, or boot debian-cloud",
        )
    by_9p = request.share is not None and _has_9p(request, on_step)
    files = resolve(
        request.image,
        kernel=request.kernel,
        initrd=request.initrd,
        append=_append(request),
        extra_modules=() if request.initrd else _drivers(request, by_9p=by_9p),
        exec_command=request.exec,
        on_step=on_step,
    )
    words = f"{DEFAULT_APPEND} {files.append}".split()
    is_linux = identify(files.kernel).kind is not KernelKind.ELF
    if is_linux and _KASLR.isdisjoint(words):
        files = replace(files, append=f"{_NO_KASLR} {files.append}".rstrip())
        words.append(_NO_KASLR)
    return Guest(
        kernel=files.kernel,
        initrd=files.initrd,
        append=files.append,
        late_disks=() if by_9p else shared_disks(request.share),
        share=request.share if by_9p else None,
        release=files.release,
        is_linux=is_linux,
        fixed_addresses=not is_linux or _NO_KASLR in words,
        load_symbols=partial(_symbols, request.symbols or files.system_map, files.kernel),
    )


def _append(request: Request) -> str:
    given = request.append or ""
    wants_shell = request.console and request.exec is None and request.initrd is None
    return f"{_SHELL} {given}".rstrip() if wants_shell else given


def _has_9p(request: Request, on_step: OnStep) -> bool:
    if request.kernel is not None:
        return has_9p(request.kernel)
    if request.initrd is not None:
        return False  # what it loads is not known; a disk needs the fewest drivers
    return image_has(request.image, _NINE_P_DRIVERS, on_step=on_step)


def _drivers(request: Request, *, by_9p: bool) -> tuple[str, ...]:
    """Name the modules that an image of ours needs for the devices it is given."""
    if request.kernel is not None:
        return ()  # its modules are not known
    interface = request.disk_interface or DiskInterface.VIRTIO_BLK
    disk = _DISK_DRIVERS[DiskInterface(interface)] if request.disks else ()
    shared = () if request.share is None else _NINE_P_DRIVERS if by_9p else _SHARED_DISK_DRIVERS
    net = _NET_DRIVERS if request.net == Net.USER else ()
    return (*disk, *shared, *net, *_tsm_drivers(request))


def _tsm_drivers(request: Request) -> tuple[str, ...]:
    if not request.quotes or request.coco is None:
        return ()
    sealing = (name for name in _SEALING if image_has(request.image, (name,)))
    return (*(sealing if request.coco == "sev-snp" else ()), _TSM_DRIVERS[request.coco])


def _symbols(given: Path | None, kernel: Path) -> Symbols:
    return load(given) if given is not None else from_elf(extract_vmlinux(kernel))
