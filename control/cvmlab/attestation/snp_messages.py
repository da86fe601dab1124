# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between an SNP guest and AMD's security processor: one page, sealed with AES-256-GCM.  Pure.

See "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), SNP_GUEST_REQUEST.  The host
transports a page each way and cannot read it; the keys, one per VMPL, are in the guest's secrets page.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cvmlab.base.errors import CvmError
from cvmlab.memory.ranges import PAGE_SIZE


HEADER_BYTES: Final = 96
TAG_BYTES: Final = 16
VMPCK_BYTES: Final = 32
_ALGORITHM_AES_256_GCM: Final = 1
_HEADER_VERSION: Final = 1
_ALIGNMENT: Final = 16
_SEQUENCE: Final = struct.Struct("<Q")
# Authenticated but not encrypted: algorithm, header version and size, type, message version and
# size, reserved, key number, reserved.
_METADATA: Final = struct.Struct("<BBHBBHIB35x")
_SEQUENCE_AT, _METADATA_AT = 0x20, 0x30


class MessageKind(IntEnum):
    """Types of messages; the others of the specification are not answered here."""

    KEY_REQUEST = 3
    KEY_RESPONSE = 4
    REPORT_REQUEST = 5
    REPORT_RESPONSE = 6


class Status(IntEnum):
    """The firmware's status, for the host or in the sealed response."""

    SUCCESS = 0
    BAD_MEASUREMENT = 0x0B
    INVALID_PARAM = 0x16
    AEAD_OVERFLOW = 0x1D
    INVALID_KEY = 0x27


class RefusedError(CvmError):
    """A request that the firmware answers with a status and without a message."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class SnpMessage:
    """A message in clear.  ``vmpck`` is the number of the key, and the sender's VMPL at least."""

    sequence: int
    kind: int
    version: int
    vmpck: int
    payload: bytes


def seal(message: SnpMessage, keys: Sequence[bytes]) -> bytes:
    """Return *message* as a page."""
    metadata = _METADATA.pack(
        _ALGORITHM_AES_256_GCM, _HEADER_VERSION, HEADER_BYTES,
        message.kind, message.version, len(message.payload), 0, message.vmpck,
    )  # fmt: skip
    sealed = AESGCM(keys[message.vmpck]).encrypt(
        _nonce(message.sequence), message.payload, metadata
    )
    text, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    header = tag.ljust(_SEQUENCE_AT, b"\0") + _SEQUENCE.pack(message.sequence) + bytes(8)
    return (header + metadata + text).ljust(PAGE_SIZE, b"\0")


def unseal(page: bytes, keys: Sequence[bytes]) -> SnpMessage:
    """Return the message in *page*; raise RefusedError if the firmware would not accept it."""
    metadata = page[_METADATA_AT:HEADER_BYTES]
    algorithm, header_version, header_size, kind, version, size, _, vmpck = _METADATA.unpack(
        metadata
    )
    if (algorithm, header_version, header_size) != (
        _ALGORITHM_AES_256_GCM, _HEADER_VERSION, HEADER_BYTES,
    ):  # fmt: skip
        raise RefusedError(Status.INVALID_PARAM, "the header has an unknown version")
    if size == 0 or size % _ALIGNMENT or HEADER_BYTES + size > PAGE_SIZE:
        raise RefusedError(Status.INVALID_PARAM, f"a message cannot have {size} bytes")
    if vmpck >= len(keys):
        raise RefusedError(Status.INVALID_PARAM, f"there is no key {vmpck}")
    (sequence,) = _SEQUENCE.unpack_from(page, _SEQUENCE_AT)
    sealed = page[HEADER_BYTES : HEADER_BYTES + size] + page[:TAG_BYTES]
    try:
        payload = AESGCM(keys[vmpck]).decrypt(_nonce(sequence), sealed, metadata)
    except InvalidTag:
        raise RefusedError(Status.BAD_MEASUREMENT, "the message is not authentic") from None
    return SnpMessage(sequence, kind, version, vmpck, payload)


def _nonce(sequence: int) -> bytes:
    return _SEQUENCE.pack(sequence).ljust(12, b"\0")
