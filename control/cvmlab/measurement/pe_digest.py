# SPDX-License-Identifier: GPL-2.0-or-later
"""The digest by which firmware measures an EFI application, such as a Linux kernel.  Pure.

"Windows Authenticode Portable Executable Signature Format", calculating the PE image hash: the file
without its checksum and its signatures.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cvmlab.base.errors import ConfigError


_PE_AT: Final = 0x3C
_FILE_HEADER_BYTES: Final = 24  # with the signature before it
_DIRECTORIES_AT: Final = {0x10B: 96, 0x20B: 112}  # in the optional header, by its magic number
_CHECKSUM_AT, _HEADERS_SIZE_AT = 64, 60
_CERTIFICATES: Final = 4  # number of their directory
_DIRECTORY_BYTES, _SECTION_BYTES, _SECTION_DATA_AT = 8, 40, 16


@dataclass(frozen=True, slots=True)
class _Places:
    checksum: int
    certificates: int | None  # None: there is no such directory
    certificate_bytes: int
    headers_end: int
    sections: tuple[tuple[int, int], ...]  # where their data begin, and how long they are


def pe_digest(image: bytes) -> bytes:
    """Return SHA-384 of an EFI application; raise ConfigError if it is none."""
    try:
        parts = list(_parts(image, _places(image)))
    except (struct.error, KeyError):
        parts = []
    if image[:2] != b"MZ" or not parts:
        raise ConfigError(
            "the kernel is no EFI application, so no firmware measures it",
            hint="a Linux kernel is one with CONFIG_EFI_STUB",
        )
    digest = hashlib.sha384()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _places(image: bytes) -> _Places:
    (pe,) = struct.unpack_from("<I", image, _PE_AT)
    (count,) = struct.unpack_from("<H", image, pe + 6)
    (optional_bytes,) = struct.unpack_from("<H", image, pe + 20)
    optional = pe + _FILE_HEADER_BYTES
    (magic,) = struct.unpack_from("<H", image, optional)
    (headers_end,) = struct.unpack_from("<I", image, optional + _HEADERS_SIZE_AT)
    directories = optional + _DIRECTORIES_AT[magic]
    (number,) = struct.unpack_from("<I", image, directories - 4)
    certificates, certificate_bytes = None, 0
    if number > _CERTIFICATES:
        certificates = directories + _DIRECTORY_BYTES * _CERTIFICATES
        (certificate_bytes,) = struct.unpack_from("<I", image, certificates + 4)
    table = optional + optional_bytes
    sections = []
    for place in range(count):
        at = table + _SECTION_BYTES * place + _SECTION_DATA_AT
        size, start = struct.unpack_from("<II", image, at)
        if size:
            sections.append((start, size))
    return _Places(
        optional + _CHECKSUM_AT, certificates, certificate_bytes, headers_end,
        tuple(sorted(sections)),
    )  # fmt: skip


def _parts(image: bytes, places: _Places) -> Iterator[bytes]:
    yield image[: places.checksum]
    rest = places.checksum + 4
    if places.certificates is not None:
        yield image[rest : places.certificates]
        rest = places.certificates + _DIRECTORY_BYTES
    yield image[rest : places.headers_end]
    for start, size in places.sections:
        yield image[start : start + size]
    hashed = places.headers_end + sum(size for _, size in places.sections)
    yield image[hashed : len(image) - places.certificate_bytes]
