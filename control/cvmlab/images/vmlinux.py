# SPDX-License-Identifier: GPL-2.0-or-later
"""What is inside of a kernel file: the ELF file of a bzImage, the Image that an arm64 kernel unpacks.

Formats: the kernel's Documentation/arch/x86/boot.rst, the EFI zboot header
(drivers/firmware/efi/libstub/zboot-header.S).
"""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from elftools.elf.enums import ENUM_E_MACHINE

from cvmlab.base.errors import ImageError
from cvmlab.debian import cache
from cvmlab.images.decompression import decompressed
from cvmlab.images.kernel_image import (
    KernelKind,
    contents,
    identify,
    is_arm64_image,
    is_bzimage,
    unpack,
)
from cvmlab.profiles.architecture import AARCH64, Architecture


Addresses = npt.NDArray[np.uint64]

_SECTOR = 512
_PAYLOAD_SINCE = 0x0208  # version of the boot protocol
_SIZE_BYTES = 4  # of the size that follows a kernel
_ELF_MAGIC = b"\x7fELF"
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_ET_EXEC, _EV_CURRENT, _PT_LOAD, _READ_EXECUTE = 2, 1, 1, 5
_IMAGE_AT = 4096
_R_AARCH64_RELATIVE = 0x403
_MIN_ADDRESSES = 16  # in a part of the kernel as large as the step by which it may be linked
_KEPT = 16  # unpacked kernels, of some 40 MiB each


def extract_vmlinux(path: Path) -> bytes:
    """Return the ELF file inside a bzImage, or an ELF file as it is; raise ImageError.

    An arm64 kernel has none: it is given a header that says where its parts are in memory.
    """
    data = contents(path)
    if data.startswith(_ELF_MAGIC):
        return data
    if not is_bzimage(data):
        return _arm64_elf(path, _arm64_image(path, data))
    payload = _payload(path, data)
    vmlinux = _decompress(path, payload, _SIZE_BYTES)
    (expected,) = struct.unpack("<I", payload[-4:])
    if not vmlinux.startswith(_ELF_MAGIC) or len(vmlinux) != expected:
        raise ImageError(f"the kernel inside {path} is damaged", hint="fetch or build it again")
    return vmlinux


def started_kernel(path: Path, architecture: Architecture) -> Path:
    """Return the file that QEMU is to start for the kernel *path*: itself, or what is unpacked of it.

    The unpacked one comes from the cache.  Raise ImageError for a damaged kernel.
    """
    if identify(path).kind not in architecture.kernel.unpacked:
        return path
    data = contents(path)

    def make(place: Path) -> None:
        place.write_bytes(_arm64_image(path, data))

    return cache.kept("kernel", ".Image", [data], make, keep=_KEPT)


def _payload(path: Path, data: bytes) -> bytes:
    (protocol,) = unpack(path, "<H", data, 0x206)
    if protocol < _PAYLOAD_SINCE:
        raise ImageError(f"{path} is older than Linux 2.6.26; its kernel cannot be extracted")
    setup_sectors = data[0x1F1] or 4
    offset, length = unpack(path, "<II", data, 0x248)
    return _part(path, data, (setup_sectors + 1) * _SECTOR + offset, length)


def _part(path: Path, data: bytes, start: int, length: int) -> bytes:
    if length < _SIZE_BYTES or start + length > len(data):
        raise ImageError(f"{path} is cut short", hint="fetch or build it again")
    return data[start : start + length]


def _decompress(path: Path, payload: bytes, tail_bytes: int = 0, *, whole: bool = False) -> bytes:
    try:
        found = decompressed(payload, tail_bytes, whole=whole)
    except ImageError as error:
        raise ImageError(f"the kernel inside {path} {error.message}") from error
    if found is None:
        raise ImageError(
            f"the kernel inside {path} has an unknown compression",
            hint="give its System.map or vmlinux with --symbols",
        )
    return found


def _arm64_image(path: Path, data: bytes) -> bytes:
    """Return the plain arm64 Image in a kernel file; raise ImageError if there is none."""
    kernel = identify(path)
    if kernel.arch != AARCH64.name or kernel.kind not in (
        KernelKind.ARM64_IMAGE,
        *AARCH64.kernel.unpacked,
    ):
        raise ImageError(f"{path} has no ELF file inside: it is not a bzImage")
    image = data
    if kernel.kind is KernelKind.EFI_ZBOOT:
        start, length = unpack(path, "<II", data, 8)
        image = _decompress(path, _part(path, data, start, length), whole=True)
    elif kernel.kind is KernelKind.ARM64_COMPRESSED:
        image = _decompress(path, data, whole=True)
    if not is_arm64_image(image):
        raise ImageError(f"the kernel inside {path} is damaged", hint="fetch or build it again")
    return image


def _arm64_elf(path: Path, image: bytes) -> bytes:
    """Return *image* as an ELF file of one segment, relocated to where it is linked to run.

    Relocations have values for places where the Image itself has zeros.
    """
    words = np.frombuffer(image, "<u8", len(image) // 8).copy()
    places, values = _relocations(words)
    start = _linked_at(words, values)
    if start is None:
        raise ImageError(
            f"where the kernel {path} runs is not known: it has few addresses of its own",
            hint="give its System.map or vmlinux with --symbols",
        )
    at = (places - np.uint64(start)) // np.uint64(8)
    inside = at < len(words)
    words[at[inside]] = values[inside]
    machine = ENUM_E_MACHINE[AARCH64.kernel.elf_machines[0]]
    # fmt: off
    header = _EHDR.pack(
        _IDENT, _ET_EXEC, machine, _EV_CURRENT, start, _EHDR.size, 0, 0,
        _EHDR.size, _PHDR.size, 1, 0, 0, 0,
    )
    # fmt: on
    size = len(image)
    header += _PHDR.pack(_PT_LOAD, _READ_EXECUTE, _IMAGE_AT, start, 0, size, size, _IMAGE_AT)
    tail = image[words.nbytes :]
    return header.ljust(_IMAGE_AT, b"\0") + words.tobytes() + tail


def _linked_at(words: Addresses, values: Addresses) -> int | None:
    """Return where the kernel is linked to run, None if nothing tells.

    An Image does not say it, but it is full of addresses of itself: in its words, or in the values of
    its relocations.  Others, such as where modules may be, are few.
    """
    rules = AARCH64.symbols
    addresses = np.concatenate([values, words[words >= rules.kernel_space]])
    parts, counts = np.unique(addresses // np.uint64(rules.link_step), return_counts=True)
    crowded = parts[counts >= _MIN_ADDRESSES]
    return int(crowded[0]) * rules.link_step if len(crowded) else None


def _relocations(words: Addresses) -> tuple[Addresses, Addresses]:
    """Return places and values of the relocations (Elf64_Rela) among the words of an Image."""
    kinds = np.flatnonzero(words[1:-1] == _R_AARCH64_RELATIVE) + 1
    places, values = words[kinds - 1], words[kinds + 1]
    lowest = AARCH64.symbols.kernel_space
    are_real = (places >= lowest) & (values >= lowest)
    return places[are_real], values[are_real]
