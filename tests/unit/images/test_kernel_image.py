# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of all kinds, fabricated, and the ELF file taken out of a bzImage."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from cvmlab.base.errors import ConfigError, ImageError
from cvmlab.images.kernel_image import KernelKind, identify
from cvmlab.images.vmlinux import extract_vmlinux
from cvmlab.profiles.architecture import AARCH64, X86_64
from tests.fakes.kernel_files import (
    EM_386,
    EM_AARCH64,
    arm64_image,
    bzimage,
    elf,
    multiboot_header,
    pvh_note,
    zboot,
)


_VMLINUX = elf({".text": b"\x90" * 3000}) + b"relocations follow"


@pytest.fixture
def save(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "kernel"
        path.write_bytes(data)
        return path

    return write


Save = Callable[[bytes], Path]


def _with_size(packed: bytes) -> bytes:
    return packed + len(_VMLINUX).to_bytes(4, "little")


def _lz4_legacy(data: bytes) -> bytes:
    """One block: all but the run of 3000 bytes as literals, the run as a copy from one before."""
    run_at = data.index(b"\x90" * 3000)
    head, tail = data[: run_at + 1], data[run_at + 3000 :]
    block = _lz4_sequence(head, 1, 2999) + _lz4_sequence(tail)
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block


def _lz4_sequence(literals: bytes, distance: int = 0, length: int = 4) -> bytes:
    def rest(value: int) -> bytes:
        return b"\xff" * ((value - 15) // 255) + bytes([(value - 15) % 255]) if value >= 15 else b""

    token = min(len(literals), 15) << 4 | min(length - 4, 15)
    copy = distance.to_bytes(2, "little") + rest(length - 4) if distance else b""
    return bytes([token]) + rest(len(literals)) + literals + copy


_PAYLOADS = {
    "gzip": gzip.compress(_VMLINUX, mtime=0),  # has the size at its end already
    "xz": _with_size(lzma.compress(_VMLINUX)),
    "lzma": _with_size(lzma.compress(_VMLINUX, lzma.FORMAT_ALONE)),
    "bzip2": _with_size(bz2.compress(_VMLINUX)),
    "zstd": _with_size(zstandard.compress(_VMLINUX)),
    "lz4": _with_size(_lz4_legacy(_VMLINUX)),
}


@pytest.mark.parametrize("name", _PAYLOADS)
def test_the_elf_file_comes_out_of_every_compression(save: Save, name: str) -> None:
    assert extract_vmlinux(save(bzimage(payload=_PAYLOADS[name]))) == _VMLINUX


@pytest.mark.parametrize("name", _PAYLOADS)
def test_a_damaged_payload_is_an_error_of_the_image(save: Save, name: str) -> None:
    payload, half = _PAYLOADS[name], len(_PAYLOADS[name]) // 2
    with pytest.raises(ImageError, match="the kernel inside"):
        extract_vmlinux(save(bzimage(payload=payload[:half] + payload[half + 8 :])))


@pytest.mark.parametrize("length", [0, 3, 0x1F0, 0x210, 0x24F])
def test_a_bzimage_cut_short_is_refused(save: Save, length: int) -> None:
    with pytest.raises(ImageError):
        extract_vmlinux(save(bzimage(payload=_PAYLOADS["zstd"])[:length]))


def test_a_payload_cut_short_is_refused(save: Save) -> None:
    with pytest.raises(ImageError, match="is cut short"):
        extract_vmlinux(save(bzimage(payload=_PAYLOADS["zstd"])[:-1]))


def test_an_unknown_compression_is_named_as_such(save: Save) -> None:
    with pytest.raises(ImageError, match="has an unknown compression"):
        extract_vmlinux(save(bzimage(payload=b"unheard of")))


def test_a_kernel_too_old_to_tell_its_payload_is_refused(save: Save) -> None:
    with pytest.raises(ImageError, match=r"older than Linux 2\.6\.26"):
        extract_vmlinux(save(bzimage(payload=_PAYLOADS["gzip"], protocol=0x207)))


def test_an_elf_file_is_its_own_vmlinux(save: Save) -> None:
    assert extract_vmlinux(save(_VMLINUX)) == _VMLINUX


def test_an_efi_application_has_no_elf_file_inside(save: Save) -> None:
    pe = b"MZ".ljust(0x3C, b"\0") + b"\x40\0\0\0PE\0\0\x64\x86"
    with pytest.raises(ImageError, match="not a bzImage"):
        extract_vmlinux(save(pe))


def test_a_bzimage_tells_release_and_architecture(save: Save) -> None:
    found = identify(save(bzimage("6.12.1+deb13-cloud-amd64")))
    assert (found.kind, found.arch) == (KernelKind.BZIMAGE, "x86_64")
    assert found.release == "6.12.1+deb13-cloud-amd64"
    found.require_bootable(X86_64)


@pytest.mark.parametrize(
    ("data", "kind", "arch"),
    [
        (bzimage(is_64_bit=False), KernelKind.BZIMAGE, "i386"),
        (elf({}), KernelKind.ELF, "x86_64"),
        (elf({}, EM_AARCH64), KernelKind.ELF, "aarch64"),
        (elf({}, 243), KernelKind.ELF, "riscv"),
        (arm64_image(), KernelKind.ARM64_IMAGE, "aarch64"),
        (gzip.compress(arm64_image(), mtime=0), KernelKind.ARM64_COMPRESSED, "aarch64"),
        (zboot(b""), KernelKind.EFI_ZBOOT, "aarch64"),
        (zboot(b"", 0x8664), KernelKind.EFI_ZBOOT, "x86_64"),
    ],
)
def test_kind_and_architecture_are_told(
    save: Save, data: bytes, kind: KernelKind, arch: str
) -> None:
    found = identify(save(data))
    assert (found.kind, found.arch) == (kind, arch)


@pytest.mark.parametrize("arch", ["aarch64", "i386"])
def test_a_kernel_for_another_architecture_is_refused(save: Save, arch: str) -> None:
    data = arm64_image() if arch == "aarch64" else bzimage(is_64_bit=False)
    with pytest.raises(
        ConfigError, match=f"is a kernel for {arch}, but the VM is x86_64"
    ) as caught:
        identify(save(data)).require_bootable(X86_64)
    assert caught.value.hint == "give a kernel for x86_64"


def test_an_arm64_image_tells_its_release(save: Save) -> None:
    found = identify(save(arm64_image(release="6.12.1+deb13-arm64")))
    assert found.release == "6.12.1+deb13-arm64"
    assert found.is_linux
    found.require_bootable(AARCH64)


@pytest.mark.parametrize(
    "data", [zboot(b""), gzip.compress(arm64_image(), mtime=0), elf({}, EM_AARCH64)]
)
def test_an_aarch64_machine_starts_all_kernels_of_its_kind(save: Save, data: bytes) -> None:
    identify(save(data)).require_bootable(AARCH64)


@pytest.mark.parametrize("data", [bzimage(), elf({}), zboot(b"", 0x8664)])
def test_an_x86_kernel_is_refused_for_an_aarch64_machine(save: Save, data: bytes) -> None:
    with pytest.raises(ConfigError, match="is a kernel for x86_64, but the VM is aarch64"):
        identify(save(data)).require_bootable(AARCH64)


def test_an_elf_file_at_virtual_addresses_is_refused_with_a_way_out(save: Save) -> None:
    head = bytearray(elf({}, EM_AARCH64))
    at = len(head)
    head[0x20:0x28] = at.to_bytes(8, "little")  # e_phoff
    head[0x36:0x3A] = struct.pack("<HH", 56, 1)
    space = AARCH64.symbols.kernel_space
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, space, space, 64, 64, 4096)
    with pytest.raises(ConfigError, match="have no physical addresses") as caught:
        identify(save(bytes(head))).require_bootable(AARCH64)
    assert caught.value.hint == "give arch/arm64/boot/Image of the same build"


def test_the_pvh_entry_of_an_elf_file_is_found(save: Save) -> None:
    found = identify(save(elf({".text": b"", ".notes": b"", ".note.Xen": pvh_note(0x100040)})))
    assert found.pvh_entry == 0x100040
    found.require_bootable(X86_64)


def test_a_32_bit_elf_file_with_a_multiboot_header_is_bootable(save: Save) -> None:
    found = identify(save(elf({".text": multiboot_header()}, EM_386)))
    assert found.multiboot
    found.require_bootable(X86_64)


def test_multiboot_does_not_help_a_64_bit_elf_file(save: Save) -> None:
    with pytest.raises(ConfigError, match="without a PVH or Multiboot entry"):
        identify(save(elf({".text": multiboot_header()}))).require_bootable(X86_64)


def test_an_elf_file_without_an_entry_is_refused_with_a_way_out(save: Save) -> None:
    with pytest.raises(ConfigError) as caught:
        identify(save(elf({".text": b""}))).require_bootable(X86_64)
    assert "CONFIG_PVH=y" in (caught.value.hint or "")


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x1f\x8b" + bytes(1000)])
def test_what_is_no_kernel_is_refused(save: Save, data: bytes) -> None:
    with pytest.raises(ImageError):
        identify(save(data))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"kernel .*/missing cannot be read: No such file"):
        identify(tmp_path / "missing")
