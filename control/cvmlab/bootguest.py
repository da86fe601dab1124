# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest that a request asks for: its files, its command line, and how its functions are named."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cvmlab.bootrequest import Request
from cvmlab.bootspec import DEFAULT_APPEND, DiskInterface, Net
from cvmlab.errors import ConfigError, ImageError
from cvmlab.images import resolve
from cvmlab.kernel_image import KernelKind, extract_vmlinux, identify
from cvmlab.packages import OnStep
from cvmlab.symbols import Symbols, from_elf, load


# NVMe is built into Debian's cloud kernels.
_DISK_DRIVERS: Mapping[DiskInterface, tuple[str, ...]] = {
    DiskInterface.VIRTIO_BLK: ("virtio_blk",),
    DiskInterface.NVME: (),
    DiskInterface.AHCI: ("ahci", "sd_mod"),
}
_NET_DRIVERS = ("virtio_net",)
_TSM_DRIVERS = ("tdx-guest",)  # configfs-tsm
# An event's address names a function only if the kernel is where it was linked.
_NO_KASLR = "nokaslr"
_KASLR = frozenset({_NO_KASLR, "kaslr"})


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest's files, wherever they came from; no kernel: the firmware boots a disk."""

    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    release: str | None = None
    is_linux: bool = True
    fixed_addresses: bool = False
    load_symbols: Callable[[], Symbols] = field(default=lambda: _nameless())


def guest_of(request: Request, on_step: OnStep) -> Guest:
    if request.disks and request.image is None and request.kernel is None:
        return _disk_guest(request)
    files = resolve(
        request.image,
        kernel=request.kernel,
        initrd=request.initrd,
        append=request.append or "",
        extra_modules=() if request.initrd else _drivers(request),
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
        release=files.release,
        is_linux=is_linux,
        fixed_addresses=not is_linux or _NO_KASLR in words,
        load_symbols=partial(_symbols, request.symbols or files.system_map, files.kernel),
    )


def _drivers(request: Request) -> tuple[str, ...]:
    """Name the modules that an image of ours needs for the devices it is given."""
    if request.kernel is not None:
        return ()  # its modules are not known
    interface = request.disk_interface or DiskInterface.VIRTIO_BLK
    disk = _DISK_DRIVERS[DiskInterface(interface)] if request.disks else ()
    net = _NET_DRIVERS if request.net == Net.USER else ()
    return (*disk, *net, *(_TSM_DRIVERS if request.quotes else ()))


def _disk_guest(request: Request) -> Guest:
    for option, value in (("--append", request.append), ("--exec", request.exec)):
        if value is not None:
            raise ConfigError(
                f"{option} cannot reach a guest that boots from its own disk",
                hint="add --kernel, or an image",
            )
    if request.symbols is None:
        return Guest()
    return Guest(load_symbols=partial(load, request.symbols))


def _symbols(given: Path | None, kernel: Path) -> Symbols:
    return load(given) if given is not None else from_elf(extract_vmlinux(kernel))


def _nameless() -> Symbols:
    raise ImageError("the kernel is on the guest's disk", hint="give its symbols with --symbols")
