# SPDX-License-Identifier: GPL-2.0-or-later
"""The launch digest of an SNP guest: the chain over its pages that the firmware computes.  Pure.

"SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), 8.17.2.  The order of pages is
QEMU's: firmware, sections of its metadata, then a VMSA for each CPU.
"""

import hashlib
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final
from uuid import UUID

from cvmlab.base.errors import ConfigError
from cvmlab.measurement.kernel_hashes import LoadedKernel
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.memory.ranges import PAGE_SIZE


DIGEST_BYTES: Final = 48
_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_HASHES: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_RESET: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_SECTION: Final = struct.Struct("<III")  # GPA, size, type
_SECRETS, _CPUID, _KERNEL_HASHES = 2, 3, 0x10
_PAGE_INFO: Final = struct.Struct("<48s48sHBB4xQ")
_VMSA_GPA: Final = 0xFFFF_FFFF_F000


class PageType(IntEnum):
    """What a page is to the firmware; only some have their content measured."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    SECRETS = 5
    CPUID = 6


class _Chain:
    def __init__(self) -> None:
        self.digest = bytes(DIGEST_BYTES)

    def add(self, kind: PageType, gpa: int, content: bytes | None = None) -> None:
        measured = bytes(DIGEST_BYTES) if content is None else hashlib.sha384(content).digest()
        info = _PAGE_INFO.pack(self.digest, measured, _PAGE_INFO.size, kind, 0, gpa)
        self.digest = hashlib.sha384(info).digest()

    def add_all(self, kind: PageType, gpa: int, size: int, content: bytes | None = None) -> None:
        for at in range(0, size, PAGE_SIZE):
            page = None if content is None else content[at : at + PAGE_SIZE]
            self.add(kind, gpa + at, page)


def launch_digest(
    firmware: FirmwareImage,
    kernel: LoadedKernel | None = None,
    vmsas: Iterable[bytes] = (),
) -> bytes:
    """Return the digest.  *kernel* is what the firmware checks.

    None: ``kernel-hashes`` is off, and the page of the table is zeros.
    """
    sections = firmware.sections(_METADATA, b"ASEV", _SECTION)
    chain = _Chain()
    chain.add_all(PageType.NORMAL, firmware.gpa, len(firmware.data), firmware.data)
    for gpa, size, kind in sections:
        if kind == _KERNEL_HASHES and kernel is not None:
            page = _hash_page(firmware, kernel, gpa, size)
            chain.add_all(PageType.NORMAL, gpa, size, page)
        else:
            pages = {_SECRETS: PageType.SECRETS, _CPUID: PageType.CPUID}
            chain.add_all(pages.get(kind, PageType.ZERO), gpa, size)
    if kernel is not None and all(kind != _KERNEL_HASHES for _, _, kind in sections):
        raise ConfigError(
            "the firmware has no table for kernel hashes", hint="OVMF.amdsev.fd has one"
        )
    for vmsa in vmsas:
        chain.add(PageType.VMSA, _VMSA_GPA, vmsa)
    return chain.digest


def ap_reset(firmware: FirmwareImage) -> int:
    """Return where CPUs but the first one begin; 0 if the firmware does not say."""
    return firmware.number(_RESET) or 0


def is_measured(firmware: FirmwareImage) -> bool:
    """Whether the firmware knows SEV; other firmware is booted without a launch that fits hardware."""
    return _METADATA in firmware.entries


def _hash_page(firmware: FirmwareImage, kernel: LoadedKernel, gpa: int, size: int) -> bytes:
    at, room = firmware.number(_HASHES), firmware.number(_HASHES, 4)
    table = kernel.table()
    if at is None or room is None or not gpa <= at <= gpa + size - len(table):
        raise ConfigError("the firmware's table for kernel hashes is malformed")
    return (bytes(at - gpa) + table[:room]).ljust(size, b"\0")
