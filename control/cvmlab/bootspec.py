# SPDX-License-Identifier: GPL-2.0-or-later
"""What to boot: every choice of the project as a value, with its default.  Pure.

machine.py makes QEMU's command line of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cvmlab.errors import ConfigError
from cvmlab.guestobject import ATTESTED, mapgpa_options, require_guest_options
from cvmlab.ranges import PAGE_SIZE, format_size
from cvmlab.states import Layout, profiles


PROFILE_OFF = "off"
MIN_MEMORY_BYTES = 16 << 20
LARGE_MEMORY_BYTES = 256 << 30
MAX_MEMORY_BYTES = 1 << 46
MAX_CPUS = 255
MIN_TB_CACHE_BYTES = 8 << 20
MAX_TB_CACHE_BYTES = 2047 << 20
# By this name the agent finds the shared folder, as a 9p device or as a disk.
SHARE_NAME = "cvmlab-share"
# panic=-1 reboots at once, which ends the run; the console says that it was a panic.
DEFAULT_APPEND = "console=ttyS0,115200 panic=-1 loglevel=4"


class AccessPolicy(StrEnum):
    """What happens when the host touches private memory."""

    DENY = "deny"
    SHARE = "share"
    ZERO = "zero"
    STOP = "stop"


class PendingPolicy(StrEnum):
    """What happens when a guest CPU touches a page it has not accepted."""

    ACCEPT = "accept"
    STOP = "stop"


class EventLoss(StrEnum):
    """What a producer does when the event ring is full."""

    LOSSY = "lossy"
    LOSSLESS = "lossless"


class Firmware(StrEnum):
    SEABIOS = "seabios"
    OVMF = "ovmf"


class Net(StrEnum):
    USER = "user"
    NONE = "none"


class DiskInterface(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    NVME = "nvme"
    AHCI = "ahci"


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image.  It is never written: what the guest writes is lost with the VM.

    ``serial`` is a number by which the guest can find it; virtio-blk alone is given one.
    """

    path: Path
    interface: DiskInterface = DiskInterface.VIRTIO_BLK
    format: DiskFormat = DiskFormat.RAW
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSpec:
    """A VM to boot.  Every default of the project is here.

    ``append`` is added to DEFAULT_APPEND; ``devices`` are values for ``-device``; ``firmware`` is
    one we know or a file; ``guest_options`` are properties of the confidential-guest object, such
    as "sept-ve-disable=off"; ``mapgpa`` is how a TD's conversions are answered (guestobject.py);
    ``quote_socket`` is an attestation service's, ``quotes`` has the VM bring one of its own;
    ``share`` is a folder that the guest may read by 9p;
    ``tb_cache_bytes`` is how much QEMU may keep of
    translated guest code, which is then translated again;
    ``gdb`` is what QEMU's ``-gdb`` takes; ``rng_seed`` makes QEMU's own
    random numbers repeat; ``extra`` goes to QEMU as it is, at the end.
    """

    coco: str = "generic"
    guest_options: tuple[str, ...] = ()
    mapgpa: str | None = None
    quote_socket: Path | None = None
    quotes: bool = False
    memory_bytes: int = 1 << 30
    cpus: int = 1
    tb_cache_bytes: int = 256 << 20
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    disks: tuple[Disk, ...] = ()
    share: Path | None = None
    net: Net = Net.NONE
    devices: tuple[str, ...] = ()
    firmware: Firmware | Path = Firmware.SEABIOS
    on_host_access: AccessPolicy = AccessPolicy.DENY
    pending: PendingPolicy = PendingPolicy.ACCEPT
    events: EventLoss = EventLoss.LOSSY
    layout: Layout | None = None
    gdb: str | None = None
    debuggable: bool = False
    iommu_platform: bool = False
    allow_reboot: bool = False
    rng_seed: int | None = None
    rom_dirs: tuple[Path, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def restricted(self) -> bool:
        return self.coco != PROFILE_OFF

    @property
    def memory_layout(self) -> Layout:
        """The layout asked for, or else the profile's."""
        return self.layout or profiles()[self.coco].layout

    def validate(self) -> None:
        """Raise ConfigError if QEMU could not run this, naming the first thing that is wrong."""
        if self.restricted and self.coco not in profiles():
            known = ", ".join([*profiles(), PROFILE_OFF])
            raise ConfigError(f"unknown profile {self.coco!r}", hint=f"known are {known}")
        require_memory_size(self.memory_bytes)
        if self.memory_bytes < MIN_MEMORY_BYTES:
            raise ConfigError(
                f"{format_size(self.memory_bytes)} of memory is too little to boot a PC",
                hint=f"give it {format_size(MIN_MEMORY_BYTES)} or more",
            )
        if not MIN_TB_CACHE_BYTES <= self.tb_cache_bytes <= MAX_TB_CACHE_BYTES:
            raise ConfigError(
                f"a translation cache of {self.tb_cache_bytes} bytes: QEMU takes 8M to 2047M",
                hint="64M to 256M serve a guest; more guests fit with less",
            )
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(
                f"{self.cpus} CPUs: there may be 1 to {MAX_CPUS}", hint="one or two serve a guest"
            )
        if self.kernel is None and (self.initrd is not None or self.append):
            raise ConfigError("an initrd or a kernel command line needs a kernel", hint="--kernel")
        self._validate_policies()
        if self.guest_options or self.quote_socket:
            require_guest_options(self.coco, self.guest_options)
        mapgpa_options(self.coco, self.mapgpa)
        if self.quotes and self.coco not in ATTESTED:
            raise ConfigError(
                f"profile {self.coco} has no attestation to answer",
                hint=f"--coco {' or '.join(ATTESTED)}, or no --quotes",
            )
        for path in self._files():
            if not path.is_file():
                raise ConfigError(f"there is no file {path}")

    def _validate_policies(self) -> None:
        if not self.restricted:
            return
        if self.on_host_access is AccessPolicy.SHARE and self.memory_layout is Layout.SPLIT:
            raise ConfigError(
                f"policy share needs content to stay in place, and {self.coco} has two files",
                hint="--on-host-access deny, zero or stop",
            )

    def _files(self) -> Iterable[Path]:
        yield from (path for path in (self.kernel, self.initrd) if path is not None)
        yield from (disk.path for disk in self.disks)
        if isinstance(self.firmware, Path):
            yield self.firmware


def require_memory_size(size_bytes: int) -> None:
    """Raise ConfigError unless *size_bytes* is a possible amount of guest memory."""
    if size_bytes <= 0 or size_bytes % PAGE_SIZE:
        raise ConfigError(
            f"guest memory of {size_bytes} bytes is not a positive multiple of 4 KiB",
            hint="give a size such as 512M or 1G",
        )
    if size_bytes > MAX_MEMORY_BYTES:
        raise ConfigError(f"{format_size(size_bytes)} of memory is more than a PC can address")
