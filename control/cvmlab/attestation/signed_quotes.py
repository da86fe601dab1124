# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotes that a verifier accepts which trusts the test root: a quoting enclave, played.  Pure.

The chain of trust is that of hardware: the attestation key signs the TD's report, the report of the
quoting enclave names the key, the platform's PCK signs that report.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from cvmlab.attestation.quote_format import QeCertification, quote
from cvmlab.pki.authorities import Pki
from cvmlab.pki.platforms import TdxPlatform


USER_DATA: Final = b"cvmlab: emulated"
_AUTHENTICATION: Final = bytes(range(32))
_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """What a verifier's QE identity must say of the quoting enclave."""

    signer: bytes = hashlib.sha256(b"cvmlab test, emulated: signer of quoting enclaves").digest()
    measurement: bytes = hashlib.sha256(b"cvmlab test, emulated: quoting enclave").digest()
    product: int = 2
    svn: int = 4
    attributes: bytes = bytes.fromhex("11000000000000000000000000000000")  # INIT, PROVISIONKEY

    def report(self, cpu_svn: bytes, data: bytes) -> bytes:
        """Return its SGX report over *data*."""
        return struct.pack(
            "<16s32x16s32s32x32s96xHH60x64s", cpu_svn, self.attributes, self.measurement,
            self.signer, self.product, self.svn, data,
        )  # fmt: skip


QUOTING_ENCLAVE: Final = QuotingEnclave()


def raw_signature(key: EllipticCurvePrivateKey, content: bytes) -> bytes:
    """Return r and s of a P-256 signature, 32 bytes each, big-endian."""
    signed = key.sign(content, ECDSA(SHA256(), deterministic_signing=True))
    return b"".join(
        part.to_bytes(_COORDINATE_BYTES, "big") for part in decode_dss_signature(signed)
    )


def quote_signer(
    pki: Pki, platform: TdxPlatform, *, wrong_key: bool = False
) -> Callable[[bytes], bytes]:
    """Return what makes a quote of a report on *platform*.

    *wrong_key*: another key signs than the one that the quoting enclave vouches for.
    """
    attestation_key = pki.seed.ec_key(f"attestation key {platform.key}", SECP256R1())
    used = pki.seed.ec_key("wrong key", SECP256R1()) if wrong_key else attestation_key
    numbers = attestation_key.public_key().public_numbers()
    key = b"".join(part.to_bytes(_COORDINATE_BYTES, "big") for part in (numbers.x, numbers.y))
    certification = _certification(pki, platform, key)

    def make(report: bytes) -> bytes:
        return quote(
            report,
            user_data=USER_DATA,
            sign=lambda content: raw_signature(used, content),
            key=key,
            certification=certification,
            tee_tcb_svn=bytes(platform.tee_tcb_svn),
            version=platform.quote_version,
        )

    return make


def _certification(pki: Pki, platform: TdxPlatform, key: bytes) -> QeCertification:
    pck = pki.pck(platform)
    data = hashlib.sha256(key + _AUTHENTICATION).digest()
    report = QUOTING_ENCLAVE.report(bytes(platform.cpu_svn), data)
    chain = "".join(identity.pem for identity in (pck, pki.tdx.pck_ca(platform.ca), pki.tdx.root))
    return QeCertification(
        report, raw_signature(pck.ec_key, report), _AUTHENTICATION, chain.encode() + b"\0"
    )
