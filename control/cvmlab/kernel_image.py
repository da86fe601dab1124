# SPDX-License-Identifier: GPL-2.0-or-later
"""Tell what a kernel file is, whether it can boot here, and take the ELF file out of a bzImage.

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

from cvmlab.errors import ConfigError, ImageError


X86_64 = "x86_64"
AARCH64 = "aarch64"

_SECTOR = 512
_HDRS_AT = 0x202
_ARM64_MAGIC_AT = 0x38
_MULTIBOOT_MAGIC = 0x1BADB002
_MULTIBOOT_WITHIN = 8192
_PVH_ENTRY_NOTE = "18"  # XEN_ELFNOTE_PHYS32_ENTRY
_PE_MACHINES = {0x8664: X86_64, 0xAA64: AARCH64}
_ELF_MACHINES = {"EM_X86_64": X86_64, "EM_386": X86_64, "EM_AARCH64": AARCH64}
_XLF_KERNEL_64 = 1
_PAYLOAD_SINCE = 0x0208  # version of the boot protocol


class KernelKind(StrEnum):
    """What QEMU's ``-kernel`` may be given."""

    BZIMAGE = "bzImage"
    ELF = "ELF"
    ARM64_IMAGE = "arm64 Image"
    EFI_ZBOOT = "EFI zboot image"


@dataclass(frozen=True, slots=True)
class KernelImage:
    """``release`` is what ``uname -r`` will say, if the file tells.

    ``pvh_entry`` is the 32-bit physical entry point of an ELF file that has one.
    """

    path: Path
    kind: KernelKind
    arch: str
    release: str | None = None
    pvh_entry: int | None = None
    multiboot: bool = False

    def require_bootable(self, arch: str) -> None:
        """Raise ConfigError if QEMU for *arch* could not start this."""
        if self.arch != arch:
            raise ConfigError(
                f"{self.path} is a kernel for {self.arch}, and the VM is {arch}",
                hint=f"give a kernel that was built for {arch}",
            )
        if self.kind is KernelKind.ELF and self.pvh_entry is None and not self.multiboot:
            raise ConfigError(
                f"{self.path} is an ELF file without a PVH or Multiboot entry",
                hint="give the bzImage, or build the kernel with CONFIG_PVH=y",
            )


def identify(path: Path) -> KernelImage:
    """Read what kind of kernel *path* is; raise ImageError if it is none or cannot be read."""
    data = _contents(path)
    if data[_HDRS_AT : _HDRS_AT + 4] == b"HdrS":
        return _identify_bzimage(path, data)
    if data[:4] == b"\x7fELF":
        return _identify_elf(path, data)
    if data[_ARM64_MAGIC_AT : _ARM64_MAGIC_AT + 4] == b"ARM\x64":
        return KernelImage(path, KernelKind.ARM64_IMAGE, AARCH64)
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return KernelImage(path, KernelKind.EFI_ZBOOT, _pe_machine(path, data))
    raise ImageError(
        f"{path} is not a kernel that cvmlab knows",
        hint="give a bzImage, an ELF file with a PVH or Multiboot entry, or an arm64 Image",
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
    return KernelImage(path, KernelKind.BZIMAGE, X86_64 if is_64_bit else "i386", release)


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
    arch = _ELF_MACHINES.get(machine, str(machine).removeprefix("EM_").lower())
    # QEMU takes the Multiboot entry of 32-bit files only.
    multiboot = machine == "EM_386" and _has_multiboot(data)
    return KernelImage(path, KernelKind.ELF, arch, None, pvh_entry, multiboot)


def _pvh_entry(elf: ELFFile) -> int | None:
    parts = [*elf.iter_segments(), *elf.iter_sections()]
    for part in parts:
        if not isinstance(part, NoteSegment | NoteSection):
            continue
        for note in part.iter_notes():
            # pyelftools leaves a type as a number where it has no name for it.
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


def _pe_machine(path: Path, data: bytes) -> str:
    (header_at,) = _unpack(path, "<I", data, 0x3C)
    (machine,) = _unpack(path, "<H", data, header_at + 4)
    return _PE_MACHINES.get(machine, f"PE machine {machine:#x}")


def _payload(path: Path, data: bytes) -> bytes:
    (protocol,) = _unpack(path, "<H", data, 0x206)
    if protocol < _PAYLOAD_SINCE:
        raise ImageError(f"{path} is from before Linux 2.6.26; its kernel cannot be taken out")
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


# The size that follows the compressed data is left over by all of them but lz4.
_FORMATS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    (b"\xfd7zXZ\0", lzma.LZMADecompressor),
    (b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj()),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", bz2.BZ2Decompressor),
)
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK = 8 << 20


def _decompress(path: Path, payload: bytes) -> bytes:
    try:
        for magic, make in _FORMATS:
            if payload.startswith(magic):
                return make().decompress(payload)
        if payload.startswith(_LZ4_LEGACY):
            return _decompress_lz4(payload[len(_LZ4_LEGACY) : -4])
    except (
        zlib.error,
        lzma.LZMAError,
        zstandard.ZstdError,
        OSError,
        ValueError,
        IndexError,
    ) as error:
        raise ImageError(f"the kernel inside {path} is damaged: {error}") from error
    raise ImageError(
        f"the kernel inside {path} is compressed in a way that cvmlab cannot read",
        hint="give its System.map or vmlinux with --symbols",
    )


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
