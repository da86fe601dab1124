# SPDX-License-Identifier: GPL-2.0-or-later
"""RTMR1 and RTMR2 from files; tests/guest compares them with those of guests."""

import hashlib
import struct

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.measurement.kernel_hashes import LoadedKernel
from cvmlab.measurement.pe_digest import pe_digest
from cvmlab.measurement.rtmrs import rtmr1, rtmr2
from tests.fakes.efi_app import efi_application


APPLICATION = efi_application("hello")
OPTIONAL = 0x40 + 24
CHECKSUM = OPTIONAL + 64
DIRECTORIES = OPTIONAL + 112
HEADERS_END = 0x200


def signed(signature: bytes) -> bytes:
    """Return the application with sixteen directories and *signature* at its end."""
    head = bytearray(APPLICATION[:HEADERS_END])
    section = head[DIRECTORIES : DIRECTORIES + 40]
    head[DIRECTORIES : DIRECTORIES + 128] = bytes(128)
    struct.pack_into("<I", head, DIRECTORIES - 4, 16)
    struct.pack_into("<II", head, DIRECTORIES + 32, len(APPLICATION), len(signature))
    struct.pack_into("<H", head, 0x40 + 20, 112 + 128)
    head[DIRECTORIES + 128 : DIRECTORIES + 168] = section
    return bytes(head) + APPLICATION[HEADERS_END:] + signature


def sha384(content: bytes) -> bytes:
    return hashlib.sha384(content).digest()


def test_all_but_the_checksum_is_in_the_digest() -> None:
    whole = APPLICATION[:CHECKSUM] + APPLICATION[CHECKSUM + 4 :]
    assert pe_digest(APPLICATION) == sha384(whole)


def test_a_signature_and_where_it_is_are_not_in_the_digest() -> None:
    image = signed(b"signature" * 8)
    directory = DIRECTORIES + 32
    body = image[: -len(b"signature" * 8)]
    whole = body[:CHECKSUM] + body[CHECKSUM + 4 : directory] + body[directory + 8 :]
    assert pe_digest(image) == sha384(whole)
    assert pe_digest(signed(b"SIGNATURE" * 8)) == pe_digest(image)
    assert pe_digest(image.replace(b"hello", b"HELLO")) != pe_digest(image)


@pytest.mark.parametrize("image", [b"", b"MZ", b"\x7fELF" + APPLICATION[4:], APPLICATION[:100]])
def test_what_is_no_application_is_refused(image: bytes) -> None:
    with pytest.raises(ConfigError, match="no EFI application"):
        pe_digest(image)


def test_the_registers_are_extended_in_the_order_of_a_boot() -> None:
    value = bytes(48)
    for digest in (
        pe_digest(APPLICATION),
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ):
        value = sha384(value + digest)
    loaded = LoadedKernel(APPLICATION, b"initrd", "quiet")
    assert rtmr1(loaded) == value
    options = sha384("quiet initrd=initrd\0".encode("utf-16-le"))
    assert rtmr2(loaded) == sha384(sha384(bytes(48) + options) + sha384(b"initrd"))
