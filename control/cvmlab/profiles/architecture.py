# SPDX-License-Identifier: GPL-2.0-or-later
"""One row for each architecture that cvmlab boots guests for.  Pure.

A row holds facts only: names, limits, paths in Debian's packages.  debian, qemu, images, machine and
boot look them up, so this package lies below all of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

from cvmlab.base.choices import choose


_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """QEMU's machine type.

    ``options`` are always given.  ``without_ahci`` is added unless a disk needs the machine's own
    AHCI controller; ``ahci`` are the devices that such a disk needs where the machine has none of its
    own.  Guests below ``large_memory_bytes`` get the CPU model ``cpu``, larger ones
    ``large_memory_cpu``.  ``serial_waits``: a guest that writes to a serial port waits while nobody
    reads; otherwise QEMU itself does, with all its CPUs and its monitor.
    """

    type: str
    options: tuple[str, ...]
    without_ahci: tuple[str, ...]
    ahci: tuple[str, ...]
    cpu: str
    large_memory_cpu: str
    large_memory_bytes: int
    min_memory_bytes: int
    max_memory_bytes: int
    max_cpus: int
    serial_waits: bool

    def cpu_for(self, memory_bytes: int) -> str:
        """Return the CPU model, with enough address bits for that much memory."""
        is_large = memory_bytes >= self.large_memory_bytes
        return self.large_memory_cpu if is_large else self.cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFormats:
    """Kernels that QEMU starts.

    ``kinds`` are words of images/kernel_image.py; those in ``unpacked`` are decompressed first, because
    QEMU knows only some of their compressions.  An ELF file with ``elf_entry_notes`` names its entry
    in a note (PVH, Multiboot).  ``elf_machines`` and ``pe_machine`` are the numbers by which ELF and PE
    files name the architecture, ``in_build_tree`` is where ``make`` leaves the kernel.
    """

    kinds: tuple[str, ...]
    unpacked: tuple[str, ...]
    elf_entry_notes: bool
    elf_machines: tuple[str, ...]
    pe_machine: int
    in_build_tree: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RomPackage:
    """A Debian package with firmware; ``file`` is a file of it that cvmlab uses."""

    package: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EfiBoot:
    """How Debian starts from a disk by EFI.

    ``default_program`` is where firmware looks on a disk that it has no boot entry for.
    ``root_partition`` is the type of a root partition (UAPI.2, discoverable partitions).
    """

    grub_package: str
    grub: str
    stub: str
    default_program: str
    root_partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolRules:
    """Where a Linux kernel runs, for naming its functions.

    Addresses from ``kernel_space`` on are the kernel's: most of its kallsyms table lies there, and
    firmware never runs there.  It is linked to run at a multiple of ``link_step``, and KASLR moves it by
    a multiple of ``kaslr_step`` below ``kaslr_range``.  One of ``entry_functions`` is where the kernel
    first runs in kernel space.
    """

    kernel_space: int
    link_step: int
    kaslr_step: int
    kaslr_range: int
    entry_functions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One row.

    ``name`` is what QEMU, Linux and ``uname -m`` say; ``debian`` is Debian's word for it.
    ``qemu_variable`` is the environment variable that names its QEMU; ``configure`` is what a build of
    ``target`` needs besides the options of all.  ``gdb`` are debuggers for it, best first.  ``console`` and ``agent`` are the guest's first two serial ports, ``append`` is the start of every kernel command line.  ``bios`` is
    what QEMU's ``-bios`` takes for each firmware word that there is, None where it needs none;
    ``kernel_firmware`` and ``disk_firmware`` are the words for a guest that names none.
    """

    name: str
    debian: str
    qemu: str
    qemu_variable: str
    target: str
    configure: tuple[str, ...]
    gdb: tuple[str, ...]
    machine: Machine
    console: str
    agent: str
    append: str
    kernel: KernelFormats
    bios: tuple[tuple[str, str | None], ...]
    kernel_firmware: str
    disk_firmware: str
    roms: tuple[RomPackage, ...]
    efi: EfiBoot
    symbols: SymbolRules

    @property
    def firmware_words(self) -> tuple[str, ...]:
        """Return the firmware that guests of this architecture may have."""
        return tuple(word for word, _ in self.bios)

    def bios_of(self, firmware: str) -> str | None:
        """Return the value of ``-bios`` for a firmware word, None if QEMU needs no such option."""
        return dict(self.bios)[firmware]


@final
class Architectures:
    """All rows.  A test may make a collection of its own."""

    def __init__(self, rows: Iterable[Architecture]) -> None:
        self._rows = {row.name: row for row in rows}

    def __iter__(self) -> Iterator[Architecture]:
        return iter(self._rows.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names in the order of the rows."""
        return tuple(self._rows)

    def get(self, name: str) -> Architecture | None:
        """Return the row *name*, None if there is none."""
        return self._rows.get(name)

    def choose(self, what: str, name: str) -> Architecture:
        """Return the row *name*; raise ConfigError, which says *what* was to be chosen."""
        return self._rows[choose(what, name, self._rows)]

    def of_elf(self, machine: str) -> Architecture | None:
        """Return the row for an ELF file's e_machine, such as "EM_386"; None if there is none."""
        return next((row for row in self if machine in row.kernel.elf_machines), None)

    def of_pe(self, machine: int) -> Architecture | None:
        """Return the row for a PE file's machine number, or None if there is none."""
        return next((row for row in self if machine == row.kernel.pe_machine), None)


X86_64: Final = Architecture(
    name="x86_64",
    debian="amd64",
    qemu="qemu-system-x86_64",
    qemu_variable="CVMLAB_QEMU",
    target="x86_64-softmmu",
    configure=("--enable-kvm",),  # sev-guest and friends depend on it, not on /dev/kvm
    gdb=("gdb",),
    machine=Machine(
        type="q35",
        options=("smm=off",),
        # SeaBIOS starts q35's own AHCI controller even without disks, and the controller then writes
        # to private memory: a host fault in every boot.
        without_ahci=("sata=off",),
        ahci=(),
        cpu="max",
        # QEMU's 40 address bits end below 1 TiB of RAM with its PCI window on top.
        large_memory_cpu="max,phys-bits=48",
        large_memory_bytes=256 * _GIB,
        min_memory_bytes=16 << 20,
        max_memory_bytes=1 << 46,
        max_cpus=255,
        serial_waits=True,
    ),
    console="ttyS0",
    agent="ttyS1",
    # panic=-1 reboots at once, which ends the run; the console shows that it was a panic.
    # no_timer_check: Linux counts the timer's interrupts within some milliseconds of the time stamp
    # counter, which runs on while the host runs something else.  Under KVM it does not check either.
    append="console=ttyS0,115200 panic=-1 loglevel=4 no_timer_check",
    kernel=KernelFormats(
        kinds=("bzImage", "ELF", "EFI zboot image", "EFI application"),
        unpacked=(),
        elf_entry_notes=True,
        elf_machines=("EM_X86_64", "EM_386"),
        pe_machine=0x8664,
        in_build_tree="arch/x86/boot/bzImage",
    ),
    bios=(("seabios", None), ("ovmf", "OVMF.fd")),
    kernel_firmware="seabios",
    disk_firmware="seabios",
    roms=(
        RomPackage(package="seabios", file="usr/share/seabios/bios-256k.bin"),
        # linuxboot, multiboot, pvh and vapic ROMs
        RomPackage(package="qemu-system-data", file="usr/share/qemu/linuxboot_dma.bin"),
        # QEMU refuses a network card without its boot ROM.
        RomPackage(package="ipxe-qemu", file="usr/share/qemu/efi-virtio.rom"),
        # The generic build, which also boots TDX and SEV guests.
        RomPackage(package="ovmf", file="usr/share/ovmf/OVMF.fd"),
    ),
    efi=EfiBoot(
        grub_package="grub-efi-amd64-unsigned",
        grub="usr/lib/grub/x86_64-efi/monolithic/grubx64.efi",
        stub="usr/lib/systemd/boot/efi/linuxx64.efi.stub",
        default_program="EFI/BOOT/BOOTX64.EFI",
        root_partition="4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    ),
    symbols=SymbolRules(
        kernel_space=0xFFFF_8000_0000_0000,  # the upper half of a 48-bit address space
        link_step=2 << 20,
        kaslr_step=2 << 20,
        kaslr_range=1 << 30,
        entry_functions=(
            "startup_64",
            "secondary_startup_64",
            "secondary_startup_64_no_verify",
            "common_startup_64",
            "x86_64_start_kernel",
        ),
    ),
)

AARCH64: Final = Architecture(
    name="aarch64",
    debian="arm64",
    qemu="qemu-system-aarch64",
    qemu_variable="CVMLAB_QEMU_AARCH64",
    target="aarch64-softmmu",
    configure=(),
    gdb=("gdb-multiarch",),
    machine=Machine(
        type="virt",
        options=("gic-version=3", "its=on"),
        without_ahci=(),
        # Its ports are the buses that q35 has: ide.0 to ide.5.
        ahci=("ich9-ahci,id=ide",),
        # The architected algorithm of pointer authentication is slow in software; the kernel signs the
        # return address of almost every function.
        cpu="max,pauth-impdef=on",
        large_memory_cpu="max,pauth-impdef=on",
        large_memory_bytes=256 * _GIB,
        min_memory_bytes=64 << 20,
        max_memory_bytes=1 << 42,
        max_cpus=512,
        serial_waits=False,  # hw/char/pl011.c: pl011_write_txdata()
    ),
    console="ttyAMA0",
    agent="ttyAMA1",
    append="console=ttyAMA0 panic=-1 loglevel=4",
    kernel=KernelFormats(
        kinds=(
            "arm64 Image", "compressed arm64 Image", "ELF", "EFI zboot image", "EFI application",
        ),
        unpacked=("compressed arm64 Image", "EFI zboot image"),
        elf_entry_notes=False,
        elf_machines=("EM_AARCH64",),
        pe_machine=0xAA64,
        in_build_tree="arch/arm64/boot/Image",
    ),
    bios=(("direct", None), ("ovmf", "QEMU_EFI.fd")),
    kernel_firmware="direct",
    disk_firmware="ovmf",
    roms=(
        RomPackage(package="qemu-efi-aarch64", file="usr/share/qemu-efi-aarch64/QEMU_EFI.fd"),
        # QEMU refuses a network card without its boot ROM.
        RomPackage(package="ipxe-qemu", file="usr/share/qemu/efi-virtio.rom"),
    ),
    efi=EfiBoot(
        grub_package="grub-efi-arm64-unsigned",
        grub="usr/lib/grub/arm64-efi/monolithic/grubaa64.efi",
        stub="usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
        default_program="EFI/BOOT/BOOTAA64.EFI",
        root_partition="B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    ),
    symbols=SymbolRules(
        # The linear map of memory is below; no code runs there.
        kernel_space=0xFFFF_8000_0000_0000,
        link_step=2 << 20,
        # With EFI, a kernel also moves as far as its place in memory is from a multiple of 2 MiB.
        kaslr_step=64 << 10,
        kaslr_range=1 << 47,
        entry_functions=("__primary_switched", "__secondary_switched"),
    ),
)  # fmt: skip

ARCHITECTURES: Final = Architectures((X86_64, AARCH64))
# For what names none: `cvmlab build`, Debian's packages, a BootSpec.
DEFAULT_ARCHITECTURE: Final = X86_64
