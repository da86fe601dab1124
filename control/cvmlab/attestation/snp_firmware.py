# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers of AMD's security processor to an SNP guest: reports and keys that prove nothing.  Pure.

They follow "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), chapter "Guest
Messages", and AMD's firmware (github.com/amd/AMD-ASPFW).  A request that is not authentic or out of
sequence fails with a status for the host and changes nothing; a request with wrong content gets a
sealed response with a status.  The answers are fake by design: the signature says FAKE, and every
derived key comes from a root key that is written below.  CPUID, migration and TSC requests are
refused.
"""

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from cvmlab.attestation.snp_messages import (
    MessageKind,
    RefusedError,
    SnpMessage,
    Status,
    seal,
    unseal,
)
from cvmlab.memory.ranges import PAGE_SIZE


VMPLS: Final = 4
REPORT_BYTES: Final = 0x4A0
KEY_BYTES: Final = 32
FAKE_ROOT: Final = b"cvmlab: a fake root key, known to everybody"
FAKE_CHIP: Final = b"cvmlab: emulated, this is no chip".ljust(64, b"\0")
FAKE_SIGNATURE: Final = (b"FAKE" * 36).ljust(512, b"\0")  # R and S of P-384, and reserved zeros

_MESSAGE_VERSION: Final = 1
_LAST_SEQUENCE: Final = 2**64 - 1
_REPORT_REQUEST = struct.Struct("<64sII24s")
_KEY_REQUEST = struct.Struct("<IIQIIQ")
_REPORT_VERSION, _ECDSA_P384_SHA384 = 2, 1
_ABI_MINOR, _ABI_MAJOR = 55, 1
_TCB = 0  # versions of the processor's firmware: there is none

# Key selection: bits of a report request and, shifted by one, of a key request.
_ANY_KEY, _CHIP_KEY = 0, 1  # 2 is the cloud provider's key, which is absent; 3 is reserved
_ROOT_IS_VM = 1
# GUEST_FIELD_SELECT: the optional inputs of a derived key.
_POLICY, _IMAGE_ID, _FAMILY_ID, _MEASUREMENT, _SVN, _TCB_VERSION = (1 << bit for bit in range(6))
_ALL_FIELDS = 0x3F


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the firmware learns at a guest's launch.  Digests are zeros without an ID block."""

    policy: int
    vmpck: tuple[bytes, bytes, bytes, bytes]
    measurement: bytes
    host_data: bytes
    family_id: bytes
    image_id: bytes
    guest_svn: int
    has_author_key: bool
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes


class SnpGuest:
    """One launched guest.  Its keys count their messages, as the firmware's guest context does."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._counts = [0] * VMPLS

    def answer(self, page: bytes) -> tuple[Status, bytes]:
        """Return a status and the response page; zeros if the request is refused."""
        try:
            request = unseal(page, self._launch.vmpck)
            kind, payload = self._respond(request)
        except RefusedError as refusal:
            return refusal.status, bytes(PAGE_SIZE)
        self._counts[request.vmpck] += 2
        response = SnpMessage(request.sequence + 1, kind, _MESSAGE_VERSION, request.vmpck, payload)
        return Status.SUCCESS, seal(response, self._launch.vmpck)

    def _respond(self, request: SnpMessage) -> tuple[MessageKind, bytes]:
        count = self._counts[request.vmpck]
        if request.sequence != count + 1 or request.sequence == _LAST_SEQUENCE:
            raise RefusedError(
                Status.AEAD_OVERFLOW, f"message {request.sequence} came after message {count}"
            )
        if request.kind not in _ANSWERS or request.version != _MESSAGE_VERSION:
            raise RefusedError(
                Status.INVALID_PARAM, f"no answer to messages of type {request.kind}"
            )
        layout, kind, respond = _ANSWERS[request.kind]
        if len(request.payload) < layout.size:
            raise RefusedError(Status.INVALID_PARAM, "the message is too short for its type")
        return kind, respond(self._launch, request)


def _report_response(launch: Launch, request: SnpMessage) -> bytes:
    data, vmpl, selection, reserved = _REPORT_REQUEST.unpack_from(request.payload)
    status = Status.SUCCESS
    if any(reserved) or selection >> 2 or not request.vmpck <= vmpl < VMPLS:
        status = Status.INVALID_PARAM
    elif selection not in (_ANY_KEY, _CHIP_KEY):
        status = Status.INVALID_KEY
    report = fake_report(launch, data, vmpl) if status is Status.SUCCESS else bytes(REPORT_BYTES)
    return struct.pack("<II24x", status, REPORT_BYTES) + report


def fake_report(launch: Launch, data: bytes, vmpl: int) -> bytes:
    """Return an attestation report over 64 bytes of *data* of the guest's choice."""
    parts = [
        struct.pack("<IIQ", _REPORT_VERSION, launch.guest_svn, launch.policy),
        launch.family_id,
        launch.image_id,
        struct.pack("<IIQQ", vmpl, _ECDSA_P384_SHA384, _TCB, 0),
        struct.pack("<II", int(launch.has_author_key), 0),
        data,
        launch.measurement,
        launch.host_data,
        launch.id_key_digest,
        launch.author_key_digest,
        launch.report_id,
        bytes(32),  # no migration agent
        struct.pack("<Q24x", _TCB),
        FAKE_CHIP,
        struct.pack("<Q4B4BQ", _TCB, *(0, _ABI_MINOR, _ABI_MAJOR, 0) * 2, _TCB),
    ]
    body = b"".join(parts)
    return body.ljust(REPORT_BYTES - len(FAKE_SIGNATURE), b"\0") + FAKE_SIGNATURE


def _key_response(launch: Launch, request: SnpMessage) -> bytes:
    selection, reserved, fields, vmpl, svn, tcb = _KEY_REQUEST.unpack_from(request.payload)
    root, key = selection & _ROOT_IS_VM, selection >> 1
    too_new = (fields & _SVN and svn > launch.guest_svn) or (fields & _TCB_VERSION and tcb > _TCB)
    status = Status.SUCCESS
    if selection >> 3 or reserved or not request.vmpck <= vmpl < VMPLS or fields & ~_ALL_FIELDS:
        status = Status.INVALID_PARAM
    elif not root and key not in (_ANY_KEY, _CHIP_KEY):
        status = Status.INVALID_KEY
    elif too_new:
        status = Status.INVALID_PARAM
    derived = bytes(KEY_BYTES)
    if status is Status.SUCCESS:
        root_key = hmac.digest(FAKE_ROOT, launch.report_id, "sha256") if root else FAKE_ROOT
        derived = derived_key(root_key, _mix(launch, root, fields, vmpl, svn, tcb))
    return struct.pack("<I28x", status) + derived


def _mix(launch: Launch, root: int, fields: int, vmpl: int, svn: int, tcb: int) -> bytes:
    """Return what distinguishes a key: what is not selected is zeros."""

    def chosen(bit: int, value: bytes) -> bytes:
        return value if fields & bit else bytes(len(value))

    signer = launch.author_key_digest if launch.has_author_key else launch.id_key_digest
    return b"".join(
        [
            struct.pack("<IQI", root, fields, vmpl),
            chosen(_SVN, struct.pack("<I", svn)),
            chosen(_TCB_VERSION, struct.pack("<Q", tcb)),
            chosen(_POLICY, struct.pack("<Q", launch.policy)),
            chosen(_IMAGE_ID, launch.image_id),
            chosen(_FAMILY_ID, launch.family_id),
            chosen(_MEASUREMENT, launch.measurement),
            launch.host_data,
            signer,
        ]
    )


def derived_key(root_key: bytes, mix: bytes) -> bytes:
    """Return 32 bytes by the key derivation of NIST SP 800-108 that AMD names, over our own mix."""
    kdf = KBKDFHMAC(
        algorithm=SHA256(), mode=Mode.CounterMode, length=KEY_BYTES, rlen=4, llen=4,
        location=CounterLocation.BeforeFixed, label=b"gmsg-keyreq", context=mix, fixed=None,
    )  # fmt: skip
    return kdf.derive(root_key)


# Type of a request: its layout, the type of its response, and the function that makes it.
_ANSWERS: dict[int, tuple[struct.Struct, MessageKind, Callable[[Launch, SnpMessage], bytes]]] = {
    MessageKind.KEY_REQUEST: (_KEY_REQUEST, MessageKind.KEY_RESPONSE, _key_response),
    MessageKind.REPORT_REQUEST: (_REPORT_REQUEST, MessageKind.REPORT_RESPONSE, _report_response),
}
