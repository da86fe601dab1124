# SPDX-License-Identifier: GPL-2.0-or-later
"""A verifier of CCA tokens by cwt, which knows nothing of cvmlab; numbers are those of the RMM specification."""

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey


class TokenError(Exception):
    """The token is refused."""


@dataclass(frozen=True, slots=True)
class CcaToken:
    """The claims of both parts, by their numbers."""

    platform: dict[int, Any]
    realm: dict[int, Any]


def verified(token: bytes, cpak: EllipticCurvePublicKey) -> CcaToken:
    """Return the claims of *token*; raise TokenError unless the platform's key *cpak* vouches for it."""
    try:
        return _verified(token, cpak)
    except TokenError:
        raise
    except Exception as error:
        raise TokenError(str(error)) from error


def _verified(token: bytes, cpak: EllipticCurvePublicKey) -> CcaToken:
    whole = cbor2.loads(token)
    _require(len(cbor2.dumps(whole)) == len(token), "something follows the token")
    _require(whole.tag == 399, "it is no CCA token")
    _require(set(whole.value) == {44234, 44241}, "it has other parts")
    pem = cpak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    platform = _signed(whole.value[44234], COSEKey.from_pem(pem, alg="ES384"))
    unchecked = cbor2.loads(cbor2.loads(whole.value[44241]).value[2])
    public_key = unchecked[44237]
    realm_key = COSEKey.new({**cbor2.loads(public_key), 3: -35})
    realm = _signed(whole.value[44241], realm_key)
    digest = hashlib.new(realm[44240].replace("-", ""), public_key).digest()
    _require(platform[10] == digest, "the platform vouches for another realm key")
    _require(platform[265] == "tag:arm.com,2023:cca_platform#1.0.0", "another profile")
    _require(realm[265] == "tag:arm.com,2023:realm#1.0.0", "another profile")
    return CcaToken(platform, realm)


def _signed(part: bytes, key: Any) -> dict[int, Any]:
    message = cbor2.loads(part)
    _require(message.tag == 18, "a part is no COSE_Sign1")
    _require(message.value[1] == {}, "a part has headers that nobody has signed")
    claims: dict[int, Any] = cbor2.loads(COSE.new().decode(part, key))
    return claims


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise TokenError(why)
