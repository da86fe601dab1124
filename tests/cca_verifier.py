# SPDX-License-Identifier: GPL-2.0-or-later
"""A verifier of CCA tokens by cwt, which knows nothing of cvmlab; numbers are those of the RMM specification."""

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2
import cwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey


class TokenError(Exception):
    """The token is refused."""


class SignatureError(TokenError):
    """It is a token, and its key has not signed it."""


@dataclass(frozen=True, slots=True)
class CcaToken:
    """The claims of both parts, by their numbers."""

    platform: dict[int, Any]
    realm: dict[int, Any]


# What cbor2, cwt and a look into what they return raise for bytes that are no token.
_NO_TOKEN = (cbor2.CBORError, cwt.CWTError, LookupError, TypeError, ValueError)


def verified(token: bytes, cpak: EllipticCurvePublicKey) -> CcaToken:
    """Return the claims of *token*; raise TokenError unless the platform's key *cpak* vouches for it."""
    try:
        return _verified(token, cpak)
    except cwt.VerifyError as error:
        raise SignatureError(str(error)) from error
    except _NO_TOKEN as error:
        raise TokenError(str(error)) from error


def _verified(token: bytes, cpak: EllipticCurvePublicKey) -> CcaToken:
    parts = _tagged(token, 399)
    _require(len(cbor2.dumps(cbor2.loads(token))) == len(token), "something follows the token")
    _require(set(parts) == {44234, 44241}, "it has other parts")
    pem = cpak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    platform = _signed(parts[44234], COSEKey.from_pem(pem, alg="ES384"))
    unchecked = cbor2.loads(_message(parts[44241])[2])
    public_key = unchecked[44237]
    _require(isinstance(unchecked[44240], str), "the hash has no name")
    digest = hashlib.new(unchecked[44240].replace("-", ""), public_key).digest()
    _require(platform[10] == digest, "the platform vouches for another realm key")
    realm = _signed(parts[44241], COSEKey.new({**cbor2.loads(public_key), 3: -35}))
    _require(platform[265] == "tag:arm.com,2023:cca_platform#1.0.0", "another profile")
    _require(realm[265] == "tag:arm.com,2023:realm#1.0.0", "another profile")
    return CcaToken(platform, realm)


def _signed(part: bytes, key: Any) -> dict[int, Any]:
    _require(_message(part)[1] == {}, "a part has headers that nobody has signed")
    claims: dict[int, Any] = cbor2.loads(COSE.new().decode(part, key))
    return claims


def _message(part: bytes) -> Any:
    message = _tagged(part, 18)
    _require(isinstance(message, (list, tuple)) and len(message) == 4, "a part is no COSE_Sign1")
    return message


def _tagged(content: bytes, number: int) -> Any:
    whole = cbor2.loads(content)
    _require(isinstance(whole, cbor2.CBORTag) and whole.tag == number, f"there is no tag {number}")
    return whole.value


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise TokenError(why)
