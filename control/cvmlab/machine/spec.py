# SPDX-License-Identifier: GPL-2.0-or-later
"""What to boot: every choice of the project as a value, with its default.

command_line.py makes QEMU's command line of it.  Files are looked at, and nothing else is touched.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from cvmlab.attestation.option_checks import require_checked
from cvmlab.attestation.quote_faults import QuoteFault, QuoteFaultKind
from cvmlab.base.errors import ConfigError
from cvmlab.machine.disk_format import DiskFormat, disk_format
from cvmlab.memory.ranges import PAGE_SIZE, format_size
from cvmlab.memory.states import Layout
from cvmlab.pki.platforms import PLATFORMS
from cvmlab.profiles.architecture import DEFAULT_ARCHITECTURE, Architecture
from cvmlab.profiles.cpu_models import cpu
from cvmlab.profiles.guest_object import policy_options, require_guest_options
from cvmlab.profiles.profile import Profile, Profiles, either
from cvmlab.profiles.profile_rows import DEFAULT_PROFILE, PROFILES


# QEMU rounds the size that it is given, but not that of the memory file.
_MEMORY_UNIT_BYTES = 8 << 10
_MAX_PORT = 65535
MIN_TB_CACHE_BYTES = 8 << 20
MAX_TB_CACHE_BYTES = 2047 << 20
# By this name the agent finds the shared folder, as a 9p device or as a disk.
SHARE_NAME = "cvmlab-share"


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


class OnPanic(StrEnum):
    """What a panic of the guest's kernel is for the run.

    ``end`` fails and ends it, unless a crash kernel may follow: then its work is waited for.
    ``wait`` is no failure if a crash kernel follows and ends well; ``expect`` is what should happen.
    """

    END = "end"
    WAIT = "wait"
    EXPECT = "expect"


class Firmware(StrEnum):
    """Words for firmware; ``direct`` is none: QEMU starts the kernel itself.

    An architecture has some of them; ``ovmf`` is EDK II there, whatever Debian calls it.
    """

    SEABIOS = "seabios"
    OVMF = "ovmf"
    DIRECT = "direct"


class Net(StrEnum):
    USER = "user"
    NONE = "none"


class DiskInterface(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    NVME = "nvme"
    AHCI = "ahci"


class Stacks(StrEnum):
    """Whether events keep what the guest's stack held, so that they can be blamed on callers."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image.  It is never written: what the guest writes is lost with the VM.

    ``format`` is found by the content unless it is given.  ``serial`` is a number by which the guest
    can find the disk; only virtio-blk takes one.
    """

    path: Path
    interface: DiskInterface = DiskInterface.VIRTIO_BLK
    format: DiskFormat | None = None
    serial: str = ""

    def __post_init__(self) -> None:
        if self.format is None:
            object.__setattr__(self, "format", disk_format(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSpec:
    """A VM to boot.  Every default of the project is here.

    ``append`` is added to the architecture's own words; ``devices`` are values for ``-device``;
    ``firmware`` is a known one or a file; ``guest_options`` are properties of the confidential-guest
    object, such as "sept-ve-disable=off"; ``mapgpa`` is how a TD's conversions are answered,
    ``ripas`` how a realm's are (guest_object.py);
    ``quote_socket`` is the socket of an attestation service, ``quotes`` has the VM start its own,
    and ``attest`` is the folder of the test PKI that signs for it, on a platform that
    ``attest_options`` describe; ``attest_serve`` is the port of a PCCS and KDS for it;
    ``quote_fault`` is how the service fails on purpose;
    ``cpu`` is a processor (cpu_models.py) or what QEMU's ``-cpu`` takes, None: the profile's own;
    ``share`` is a folder that the guest may read by 9p;
    ``tb_cache_bytes`` limits QEMU's cache of translated guest code;
    ``gdb`` is what QEMU's ``-gdb`` takes; ``rng_seed`` makes QEMU's own
    random numbers repeat; ``allow_unaware``, ``fail_on`` and ``on_panic`` say what is no failure of
    the guest's kernel, or is one; ``extra`` is passed to QEMU unchanged, at the end.

    ``architecture`` is the row that says what the machine is; ``profiles`` are no option but the rows
    that ``coco`` is looked up in.
    """

    coco: str = DEFAULT_PROFILE
    guest_options: tuple[str, ...] = ()
    mapgpa: str | None = None
    ripas: str | None = None
    quote_socket: Path | None = None
    quotes: bool = False
    attest: Path | None = None
    attest_options: tuple[str, ...] = ()
    attest_serve: int | None = None
    quote_fault: str | None = None
    memory_bytes: int = 1 << 30
    cpu: str | None = None
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
    stacks: Stacks = Stacks.ON
    iommu_platform: bool = False
    allow_reboot: bool = False
    allow_unaware: bool = False
    fail_on: tuple[str, ...] = ()
    on_panic: OnPanic = OnPanic.END
    rng_seed: int | None = None
    rom_dirs: tuple[Path, ...] = ()
    extra: tuple[str, ...] = ()
    architecture: Architecture = field(default=DEFAULT_ARCHITECTURE, repr=False)
    profiles: Profiles = field(default=PROFILES, repr=False, compare=False)

    def __post_init__(self) -> None:
        for policy in self.profiles.host_policies:
            answer = getattr(self, policy.option)
            if answer is not None:
                object.__setattr__(self, policy.option, policy.usual(answer))

    @property
    def profile(self) -> Profile:
        """The row of ``coco``; raises ConfigError if there is none."""
        return self.profiles[self.coco]

    @property
    def restricted(self) -> bool:
        return self.profile.restricted

    @property
    def memory_layout(self) -> Layout:
        """The layout asked for, or else the profile's."""
        return self.layout or self.profiles.layout(self.coco)

    @property
    def host_answer(self) -> str | None:
        """How the guest's requests for conversions are answered, None: as asked."""
        policy = self.profile.host_policy
        return None if policy is None else getattr(self, policy.option)

    @property
    def has_quotes(self) -> bool:
        """Whether the VM answers requests for attestation itself."""
        return self.quotes or self.attest is not None

    @property
    def answers(self) -> tuple[Path | None, tuple[str, ...], str | None]:
        """What an attestation service must know: who signs, on what platform, and how it fails."""
        return self.attest, self.attest_options, self.quote_fault

    @property
    def without_ports(self) -> Self:
        """The same for a second VM beside the first: two cannot listen on the same port."""
        return replace(self, gdb=None, attest_serve=None)

    def validate(self) -> None:
        """Raise ConfigError if QEMU could not run this, naming the first thing that is wrong."""
        self.profile.require_architecture(self.architecture.name)
        self._validate_profile()
        self._validate_sizes()
        self._validate_firmware()
        if self.kernel is None and (self.initrd is not None or self.append):
            raise ConfigError("--initrd and --append need --kernel", hint="add --kernel FILE")
        self._validate_policies()
        self._validate_files()

    def _validate_sizes(self) -> None:
        machine = self.architecture.machine
        require_memory_size(self.memory_bytes, self.architecture)
        if self.memory_bytes % _MEMORY_UNIT_BYTES:
            raise ConfigError(
                f"--memory must be a multiple of {format_size(_MEMORY_UNIT_BYTES)} "
                f"(got {self.memory_bytes} bytes)",
                hint="give a size such as 512M or 1G",
            )
        if self.memory_bytes < machine.min_memory_bytes:
            raise ConfigError(
                f"--memory must be at least {format_size(machine.min_memory_bytes)} "
                f"(got {format_size(self.memory_bytes)})",
                hint="most Linux guests need 256M or more",
            )
        if not MIN_TB_CACHE_BYTES <= self.tb_cache_bytes <= MAX_TB_CACHE_BYTES:
            raise ConfigError(
                f"--tb-cache must be 8M to 2047M (got {format_size(self.tb_cache_bytes)})",
                hint="64M to 256M is enough for one guest; with less, more guests fit",
            )
        if not 1 <= self.cpus <= machine.max_cpus:
            raise ConfigError(
                f"--cpus must be 1 to {machine.max_cpus} (got {self.cpus})",
                hint="one or two are enough for most guests",
            )

    def _validate_profile(self) -> None:
        profile, known = self.profile, self.profiles
        if self.guest_options:
            if profile.guest_object is None:
                names = known.where(lambda row: row.guest_object)
                raise ConfigError(
                    f"profile {self.coco} has no guest object, so it takes no --coco-option",
                    hint=f"--coco {either(names)}, or no --coco-option",
                )
            qemu = self.architecture.qemu
            require_guest_options(profile.guest_object, self.guest_options, qemu=qemu)
            require_checked(profile.guest_object.check, self.guest_options)
        self._validate_answers()
        cpu(profile, self.cpu)
        self._validate_attestation()

    def _validate_answers(self) -> None:
        own = self.profile.host_policy
        for policy in self.profiles.host_policies:
            if policy != own and getattr(self, policy.option) is not None:
                names = (row.name for row in self.profiles if row.host_policy == policy)
                raise ConfigError(
                    f"guests of profile {self.coco} do not call {policy.call}",
                    hint=f"--coco {either(names)}, or no --{policy.option}",
                )
        policy_options(own, self.host_answer)

    def _validate_attestation(self) -> None:
        attestation = self.profile.attestation
        if (self.has_quotes or self.quote_socket) and attestation is None:
            names = self.profiles.where(lambda row: row.attestation)
            word = "--attest" if self.attest is not None else "--quotes"
            raise ConfigError(
                f"profile {self.coco} has no attestation",
                hint=f"--coco {either(names)}, or no {word}",
            )
        if self.attest_options and self.attest is None:
            raise ConfigError(
                "--attest-option says what a signed quote or report has, and nothing signs one",
                hint="add --attest DIR; `cvmlab attest init DIR` makes it",
            )
        if self.attest_serve is not None:
            self._validate_port(self.attest_serve)
        if self.quote_fault is not None:
            self._validate_fault(QuoteFault.of(self.quote_fault))
        if attestation is not None and self.attest is not None:
            PLATFORMS[attestation.service].of(self.attest_options)

    def _validate_port(self, port: int) -> None:
        if self.attest is None:
            raise ConfigError(
                "--attest-serve serves what verifies a signed quote or report, and nothing signs one",
                hint="add --attest DIR; `cvmlab attest init DIR` makes it",
            )
        if not 0 < port <= _MAX_PORT:
            raise ConfigError(
                f"--attest-serve must be 1 to {_MAX_PORT} (got {port})",
                hint="--attest-serve 8081",
            )

    def _validate_fault(self, fault: QuoteFault) -> None:
        if not self.has_quotes:
            raise ConfigError(
                "--quote-fault is how a service fails, and there is none",
                hint="add --quotes, or --attest DIR",
            )
        if fault.kind is QuoteFaultKind.WRONG_KEY and self.attest is None:
            raise ConfigError(
                "--quote-fault wrong-key: no key signs a fake quote", hint="add --attest DIR"
            )

    def _validate_firmware(self) -> None:
        known = self.architecture.firmware_words
        if isinstance(self.firmware, Firmware) and self.firmware not in known:
            raise ConfigError(
                f"{self.architecture.name} has no firmware {self.firmware}",
                hint=f"--firmware {', '.join(known)}, or a file",
            )

    def _validate_policies(self) -> None:
        if not self.restricted:
            return
        if self.on_host_access is AccessPolicy.SHARE and self.memory_layout is Layout.SPLIT:
            raise ConfigError(
                f"--on-host-access share needs layout in-place, but {self.coco} has layout split",
                hint="--on-host-access deny, zero or stop",
            )

    def _validate_files(self) -> None:
        for path in self._files():
            if not path.is_file():
                raise ConfigError(f"there is no file {path}")
        if self.share is not None and not self.share.is_dir():
            raise ConfigError(f"there is no folder {self.share}")
        if self.attest is not None and not self.attest.is_dir():
            raise ConfigError(
                f"there is no folder {self.attest}",
                hint=f"`cvmlab attest init {self.attest}` makes it",
            )

    def _files(self) -> Iterable[Path]:
        yield from (path for path in (self.kernel, self.initrd) if path is not None)
        yield from (disk.path for disk in self.disks)
        if isinstance(self.firmware, Path):
            yield self.firmware


def require_memory_size(size_bytes: int, architecture: Architecture = DEFAULT_ARCHITECTURE) -> None:
    """Raise ConfigError unless a guest of *architecture* can have that much memory."""
    if size_bytes <= 0 or size_bytes % PAGE_SIZE:
        raise ConfigError(
            f"guest memory must be a positive multiple of 4K (got {size_bytes} bytes)",
            hint="give a size such as 512M or 1G",
        )
    limit = architecture.machine.max_memory_bytes
    if size_bytes > limit:
        raise ConfigError(
            f"guest memory must be at most {format_size(limit)} (got {format_size(size_bytes)})",
            hint=f"that is all that a machine of type {architecture.machine.type} can address",
        )
