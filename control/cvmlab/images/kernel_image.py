# SPDX-License-Identifier: GPL-2.0-or-later
"""Identify a kernel file, check that it can boot, and extract the ELF file of a bzImage.

Formats: the kernel's Documentation/arch/x86/boot.rst and arch/arm64/booting.rst, the EFI zboot
header (drivers/firmware/efi/libstub/zboot-header.S), Xen's PVH note, the Multiboot specification.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from elftools.elf.segments import NoteSegment

from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.profiles.architecture import ARCHITECTURES, X86_64, Architecture


_SECTOR = 512
_HDRS_AT = 0x202
_ARM64_MAGIC_AT = 0x38
_MULTIBOOT_MAGIC = 0x1BADB002
_MULTIBOOT_WITHIN = 8192
_PVH_ENTRY_NOTE = "18"  # XEN_ELFNOTE_PHYS32_ENTRY
# What the formats say of architectures that have no row: they are named in the error.
_AARCH64, _I386 = "aarch64", "i386"
_OTHER_PE_MACHINES = {0xAA64: _AARCH64}
_XLF_KERNEL_64 = 1
_PAYLOAD_SINCE = 0x0208  # version of the boot protocol


class KernelKind(StrEnum):
    """The formats that QEMU's ``-kernel`` accepts."""

    BZIMAGE = "bzImage"
    ELF = "ELF"
    ARM64_IMAGE = "arm64 Image"
    EFI_ZBOOT = "EFI zboot image"
    EFI_APP = "EFI application"


@dataclass(frozen=True, slots=True)
class KernelImage:
    """``release`` is the output of ``uname -r``, if the file has it.

    ``pvh_entry`` is the 32-bit physical entry point of an ELF file that has one.
    """

    path: Path
    kind: KernelKind
    arch: str
    release: str | None = None
    pvh_entry: int | None = None
    multiboot: bool = False

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
        if self.kind is KernelKind.ELF and self.pvh_entry is None and not self.multiboot:
            raise ConfigError(
                f"{self.path} is an ELF file without a PVH or Multiboot entry",
                hint="give the bzImage, or build the kernel with CONFIG_PVH=y",
            )


def identify(path: Path) -> KernelImage:
    """Identify the kernel *path*; raise ImageError if it is unknown or cannot be read."""
    data = _contents(path)
    if data[_HDRS_AT : _HDRS_AT + 4] == b"HdrS":
        return _identify_bzimage(path, data)
    if data[:4] == b"\x7fELF":
        return _identify_elf(path, data)
    if data[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == b"ARM\x64":
        return KernelImage(path, KernelKind.ARM64_IMAGE, _AARCH64)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return KernelImage(path, KernelKind.EFI_ZBOOT, _pe_machine(path, data))
    if data[:2] == b"MZ" and _is_pe(data):
        return KernelImage(path, KernelKind.EFI_APP, _pe_machine(path, data))
    raise ImageError(
        f"{path} is not a kernel in a known format",
        hint="give a bzImage, an ELF file with a PVH or Multiboot entry, an EFI application, or an "
        "arm64 Image",
    )


def extract_vmlinux(path: Path) -> bytes:
    """Return the ELF file inside a bzImage, or an ELF file as it is; raise ImageError."""
    data = _contents(path)
    if data[:4] == b"\x7fELF":
        return data
    if data[_HDRS_AT : _HDRS_AT + 4] != b"HdrS":
        raise ImageError(f"{path} has no ELF file inside: it is not a bzImage")
    payload = _payload(path, data)
    vmlinux = _decompress(path, payload)
    (expected,) = struct.unpack("<I", payload[-4:])
    if vmlinux[:4] != b"\x7fELF" or len(vmlinux) != expected:
        raise ImageError(f"the kernel inside {path} is damaged", hint="fetch or build it again")
    return vmlinux


def _contents(path: Path) -> bytes:
    try:
        if (
            path.is_fifo() or path.is_char_device()
        ):  # a pipe would be waited for, a device has no end
            raise ImageError(f"kernel {path} cannot be read: it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"kernel {path} cannot be read: {error.strerror}") from error


def _identify_bzimage(path: Path, data: bytes) -> KernelImage:
    protocol, _, _, version_at = _unpack(path, "<HIHH", data, 0x206)
    (loads,) = _unpack(path, "<H", data, 0x236)
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
        except ELFError as error:
            raise ImageError(
                f"{path} is a damaged ELF file: {error}", hint="build it, or fetch it, again"
            ) from error
    row = ARCHITECTURES.of_elf(machine)
    arch = row.name if row else str(machine).removeprefix("EM_").lower()
    # QEMU takes the Multiboot entry of 32-bit files only.
    multiboot = machine == "EM_386" and _has_multiboot(data)
    return KernelImage(path, KernelKind.ELF, arch, None, pvh_entry, multiboot)


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
    (header_at,) = _unpack(path, "<I", data, 0x3C)
    (machine,) = _unpack(path, "<H", data, header_at + 4)
    row = ARCHITECTURES.of_pe(machine)
    return row.name if row else _OTHER_PE_MACHINES.get(machine, f"PE machine {machine:#x}")


def _payload(path: Path, data: bytes) -> bytes:
    (protocol,) = _unpack(path, "<H", data, 0x206)
    if protocol < _PAYLOAD_SINCE:
        raise ImageError(f"{path} is older than Linux 2.6.26; its kernel cannot be extracted")
    setup_sectors = data[0x1F1] or 4
    offset, length = _unpack(path, "<II", data, 0x248)
    start = (setup_sectors + 1) * _SECTOR + offset
    if length < 4 or start + length > len(data):
        raise ImageError(f"{path} is cut short", hint="fetch or build it again")
    return data[start : start + length]


def _unpack(path: Path, layout: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error as error:
        raise ImageError(f"{path} is cut short", hint="fetch or build it again") from error


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


# All decompressors but lz4's ignore the size that follows the compressed data.
_FORMATS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    (b"\xfd7zXZ\0", lzma.LZMADecompressor),
    (b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj()),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", bz2.BZ2Decompressor),
)
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20
_SIZE_BYTES = 4  # of the size that follows a kernel


_DAMAGE = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, ValueError, IndexError)


def decompressed(data: bytes, tail_bytes: int = 0) -> bytes | None:
    """Return what *data* is compressed from, None if by no program that the kernel's build uses.

    *tail_bytes* follow the compressed data.  Raise ImageError if it is damaged.
    """
    try:
        for magic, make in _FORMATS:
            if data.startswith(magic):
                return make().decompress(data)
        if data.startswith(_LZ4_LEGACY):
            return _decompress_lz4(data[len(_LZ4_LEGACY) : len(data) - tail_bytes])
    except _DAMAGE as error:
        raise ImageError(f"is damaged: {error}") from error
    return None


def _decompress(path: Path, payload: bytes) -> bytes:
    try:
        found = decompressed(payload, _SIZE_BYTES)
    except ImageError as error:
        raise ImageError(f"the kernel inside {path} {error.message}") from error
    if found is None:
        raise ImageError(
            f"the kernel inside {path} has an unknown compression",
            hint="give its System.map or vmlinux with --symbols",
        )
    return found


def _decompress_lz4(blocks: bytes) -> bytes:
    """Read the format of ``lz4 -l``: blocks with their compressed size in front."""
    parts, at = [], 0
    while at + 4 <= len(blocks):
        size = int.from_bytes(blocks[at : at + 4], "little")
        parts.append(_lz4_block(blocks[at + 4 : at + 4 + size]))
        at += 4 + size
    return b"".join(parts)


def _lz4_block(block: bytes) -> bytes:
    """Decompress one block (lz4_Block_format.md): literals, then a copy from before, repeated."""
    out = bytearray()
    at = 0
    while at < len(block):
        token, at = block[at], at + 1
        length, at = _lz4_length(block, at, token >> 4)
        out += block[at : at + length]
        at += length
        if at >= len(block):
            break
        distance, at = int.from_bytes(block[at : at + 2], "little"), at + 2
        length, at = _lz4_length(block, at, token & 15)
        length += 4
        if not 0 < distance <= len(out) or len(out) + length > _LZ4_BLOCK:
            raise ValueError("a copy from outside the block")
        start = len(out) - distance
        piece = bytes(out[start : start + length])
        out += (piece * (length // len(piece) + 1))[:length]
    return bytes(out)


def _lz4_length(block: bytes, at: int, length: int) -> tuple[int, int]:
    if length == 15:
        while (more := block[at]) == 255:
            length, at = length + 255, at + 1
        length, at = length + more, at + 1
    return length, at
