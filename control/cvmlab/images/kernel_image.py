# SPDX-License-Identifier: GPL-2.0-or-later
"""Identify a kernel file, and check that it can boot; vmlinux.py has what is inside of it.

Formats: the kernel's Documentation/arch/x86/boot.rst and arch/arm64/booting.rst, the EFI zboot
header (drivers/firmware/efi/libstub/zboot-header.S), Xen's PVH note, the Multiboot specification.
"""

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from elftools.elf.segments import NoteSegment

from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.images.decompression import decompressed_head
from cvmlab.profiles.architecture import AARCH64, ARCHITECTURES, X86_64, Architecture


_SECTOR = 512
_HDRS_AT = 0x202
_ARM64_MAGIC_AT = 0x38
_MULTIBOOT_MAGIC = 0x1BADB002
_MULTIBOOT_WITHIN = 8192
_PVH_ENTRY_NOTE = "18"  # XEN_ELFNOTE_PHYS32_ENTRY
_ARM64_HEADER_BYTES = 64
_ARM64_MAGIC = b"ARM\x64"
_LINUX_VERSION = re.compile(rb"Linux version ([!-~]+) \(")
_I386 = "i386"  # has no row: it is named in the error
_XLF_KERNEL_64 = 1


class KernelKind(StrEnum):
    """The formats that QEMU's ``-kernel`` accepts."""

    BZIMAGE = "bzImage"
    ELF = "ELF"
    ARM64_IMAGE = "arm64 Image"
    ARM64_COMPRESSED = "compressed arm64 Image"
    EFI_ZBOOT = "EFI zboot image"
    EFI_APP = "EFI application"


@dataclass(frozen=True, slots=True)
class KernelImage:
    """``release`` is the output of ``uname -r``, if the file has it.

    ``pvh_entry`` is the 32-bit physical entry point of an ELF file that has one, ``loads_at`` the
    lowest physical address of its segments.
    """

    path: Path
    kind: KernelKind
    arch: str
    release: str | None = None
    pvh_entry: int | None = None
    multiboot: bool = False
    loads_at: int | None = None

    @property
    def is_linux(self) -> bool:
        return self.kind not in (KernelKind.ELF, KernelKind.EFI_APP)

    @property
    def needs_efi(self) -> bool:
        """Whether only EFI firmware can start it."""
        return self.kind is KernelKind.EFI_APP

    def require_bootable(self, architecture: Architecture) -> None:
        """Raise ConfigError if QEMU for *architecture* cannot start this kernel."""
        name, kinds = architecture.name, architecture.kernel.kinds
        if self.arch != name:
            raise ConfigError(
                f"{self.path} is a kernel for {self.arch}, but the VM is {name}",
                hint=f"give a kernel for {name}",
            )
        if self.kind not in kinds:
            raise ConfigError(
                f"{self.path} is a kernel of format {self.kind}, which QEMU does not boot on {name}",
                hint=f"formats are {', '.join(kinds)}",
            )
        if self.kind is KernelKind.ELF:
            self._require_entry(architecture)

    def _require_entry(self, architecture: Architecture) -> None:
        has_note = self.pvh_entry is not None or self.multiboot
        if architecture.kernel.elf_entry_notes and not has_note:
            raise ConfigError(
                f"{self.path} is an ELF file without a PVH or Multiboot entry",
                hint="give the bzImage, or build the kernel with CONFIG_PVH=y",
            )
        if (self.loads_at or 0) >= architecture.symbols.kernel_space:
            raise ConfigError(
                f"{self.path} is an ELF file whose segments have no physical addresses",
                hint=f"give {architecture.kernel.in_build_tree} of the same build",
            )


def identify(path: Path) -> KernelImage:
    """Identify the kernel *path*; raise ImageError if it is unknown or cannot be read."""
    data = contents(path)
    if is_bzimage(data):
        return _identify_bzimage(path, data)
    if data[:4] == b"\x7fELF":
        return _identify_elf(path, data)
    if is_arm64_image(data):
        return KernelImage(path, KernelKind.ARM64_IMAGE, AARCH64.name, _banner(data))
    if is_arm64_image(decompressed_head(data, _ARM64_HEADER_BYTES)):
        return KernelImage(path, KernelKind.ARM64_COMPRESSED, AARCH64.name)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return KernelImage(path, KernelKind.EFI_ZBOOT, _pe_machine(path, data))
    if data[:2] == b"MZ" and _is_pe(data):
        return KernelImage(path, KernelKind.EFI_APP, _pe_machine(path, data))
    raise ImageError(
        f"{path} is not a kernel in a known format",
        hint="give a bzImage, an ELF file with a PVH or Multiboot entry, an EFI application, or an "
        "arm64 Image",
    )


def is_bzimage(data: bytes) -> bool:
    """Tell whether *data* has the header of the x86 boot protocol."""
    return data[_HDRS_AT : _HDRS_AT + 4] == b"HdrS"


def is_arm64_image(data: bytes) -> bool:
    """Tell whether *data* begins with the header of an arm64 Image."""
    return data[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + len(_ARM64_MAGIC)] == _ARM64_MAGIC


def contents(path: Path) -> bytes:
    """Return what is in the kernel file *path*; raise ImageError."""
    try:
        if (
            path.is_fifo() or path.is_char_device()
        ):  # a pipe would be waited for, a device has no end
            raise ImageError(f"kernel {path} cannot be read: it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"kernel {path} cannot be read: {error.strerror}") from error


def _banner(data: bytes) -> str | None:
    found = _LINUX_VERSION.search(data)
    return found[1].decode() if found else None


def _identify_bzimage(path: Path, data: bytes) -> KernelImage:
    protocol, _, _, version_at = unpack(path, "<HIHH", data, 0x206)
    (loads,) = unpack(path, "<H", data, 0x236)
    release = None
    if version_at:
        text = data[version_at + _SECTOR : version_at + _SECTOR + 256].partition(b"\0")[0]
        release = text.decode("ascii", "replace").partition(" ")[0] or None
    is_64_bit = protocol >= 0x020C and loads & _XLF_KERNEL_64
    arch = X86_64.name if is_64_bit else _I386
    return KernelImage(path, KernelKind.BZIMAGE, arch, release)


def _identify_elf(path: Path, data: bytes) -> KernelImage:
    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
            machine = elf["e_machine"]
            pvh_entry = _pvh_entry(elf)
            loads_at = min((part["p_paddr"] for part in elf.iter_segments("PT_LOAD")), default=None)
        except ELFError as error:
            raise ImageError(
                f"{path} is a damaged ELF file: {error}", hint="build it, or fetch it, again"
            ) from error
    row = ARCHITECTURES.of_elf(machine)
    arch = row.name if row else str(machine).removeprefix("EM_").lower()
    # QEMU takes the Multiboot entry of 32-bit files only.
    multiboot = machine == "EM_386" and _has_multiboot(data)
    return KernelImage(path, KernelKind.ELF, arch, None, pvh_entry, multiboot, loads_at)


def _pvh_entry(elf: ELFFile) -> int | None:
    parts = [*elf.iter_segments(), *elf.iter_sections()]
    for part in parts:
        if not isinstance(part, NoteSegment | NoteSection):
            continue
        for note in part.iter_notes():
            # pyelftools returns a type that it has no name for as a number.
            if note["n_name"] == "Xen" and str(note["n_type"]) == _PVH_ENTRY_NOTE:
                return int.from_bytes(_note_bytes(note["n_desc"])[:4], "little")
    return None


def _note_bytes(desc: bytes | str) -> bytes:
    return desc.encode("latin-1") if isinstance(desc, str) else desc


def _has_multiboot(data: bytes) -> bool:
    head = data[:_MULTIBOOT_WITHIN]
    words = struct.unpack(f"<{len(head) // 4}I", head[: len(head) & ~3])
    return any(
        magic == _MULTIBOOT_MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0
        for magic, flags, checksum in zip(words, words[1:], words[2:], strict=False)
    )


def _is_pe(data: bytes) -> bool:
    at = int.from_bytes(data[0x3C:0x40], "little")
    return data[at : at + 4] == b"PE\0\0"


def _pe_machine(path: Path, data: bytes) -> str:
    (header_at,) = unpack(path, "<I", data, 0x3C)
    (machine,) = unpack(path, "<H", data, header_at + 4)
    row = ARCHITECTURES.of_pe(machine)
    return row.name if row else f"PE machine {machine:#x}"


def unpack(path: Path, layout: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error as error:
        raise ImageError(f"{path} is cut short", hint="fetch or build it again") from error
