# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers of AMD's security processor to an SNP guest: reports and derived keys.  Pure.

They follow "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), chapter "Guest
Messages", and AMD's firmware (github.com/amd/AMD-ASPFW).  A request that is not authentic or out of
sequence fails with a status for the host and changes nothing; a request with wrong content gets a
sealed response with a status.  Who signs is a Signer of snp_report.py: the signature says FAKE
unless there is another.  CPUID, migration and TSC requests are refused.
"""

import hmac
import struct
from collections.abc import Callable
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
from cvmlab.attestation.snp_report import (
    FAKE_SIGNER,
    REPORT_BYTES,
    Launch,
    Signer,
    is_newer,
    signed_report,
)
from cvmlab.memory.ranges import PAGE_SIZE


VMPLS: Final = 4
KEY_BYTES: Final = 32

_MESSAGE_VERSION: Final = 1
_LAST_SEQUENCE: Final = 2**64 - 1
_REPORT_REQUEST = struct.Struct("<64sII24s")
_KEY_REQUEST = struct.Struct("<IIQIIQ")

_ROOT_IS_VM = 1
# GUEST_FIELD_SELECT: the optional inputs of a derived key.
_POLICY, _IMAGE_ID, _FAMILY_ID, _MEASUREMENT, _SVN, _TCB_VERSION = (1 << bit for bit in range(6))
_ALL_FIELDS = 0x3F


class SnpGuest:
    """One launched guest.  Its keys count their messages, as the firmware's guest context does."""

    def __init__(self, launch: Launch, signer: Signer = FAKE_SIGNER) -> None:
        self._launch = launch
        self._signer = signer
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
        return kind, respond(self._launch, self._signer, request)


def _report_response(launch: Launch, signer: Signer, request: SnpMessage) -> bytes:
    data, vmpl, selection, reserved = _REPORT_REQUEST.unpack_from(request.payload)
    status = Status.SUCCESS
    if any(reserved) or selection >> 2 or not request.vmpck <= vmpl < VMPLS:
        status = Status.INVALID_PARAM
    key = signer.key(selection)
    if status is Status.SUCCESS and key is None:
        status = Status.INVALID_KEY
    report = bytes(REPORT_BYTES)
    if status is Status.SUCCESS and key is not None:
        report = signer.alter(signed_report(launch, data, vmpl, signer.processor, key))
    return struct.pack("<II24x", status, REPORT_BYTES) + report


def _key_response(launch: Launch, signer: Signer, request: SnpMessage) -> bytes:
    selection, reserved, fields, vmpl, svn, tcb = _KEY_REQUEST.unpack_from(request.payload)
    root, key = selection & _ROOT_IS_VM, selection >> 1
    too_new = (fields & _SVN and svn > launch.guest_svn) or (
        fields & _TCB_VERSION and is_newer(tcb, signer.processor.tcb)
    )
    status = Status.SUCCESS
    if selection >> 3 or reserved or not request.vmpck <= vmpl < VMPLS or fields & ~_ALL_FIELDS:
        status = Status.INVALID_PARAM
    elif not root and signer.key(key) is None:
        status = Status.INVALID_KEY
    elif too_new:
        status = Status.INVALID_PARAM
    derived = bytes(KEY_BYTES)
    if status is Status.SUCCESS:
        secret = signer.processor.secret
        root_key = hmac.digest(secret, launch.report_id, "sha256") if root else secret
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
_ANSWERS: dict[
    int, tuple[struct.Struct, MessageKind, Callable[[Launch, Signer, SnpMessage], bytes]]
] = {
    MessageKind.KEY_REQUEST: (_KEY_REQUEST, MessageKind.KEY_RESPONSE, _key_response),
    MessageKind.REPORT_REQUEST: (_REPORT_REQUEST, MessageKind.REPORT_RESPONSE, _report_response),
}
