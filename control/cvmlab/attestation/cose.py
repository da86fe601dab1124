# SPDX-License-Identifier: GPL-2.0-or-later
"""COSE_Sign1 messages and COSE_Keys on P-384 (RFC 9052, 4.2 and 7; RFC 9053, 2.1 and 7.1).  Pure.

CBOR is cbor2's and ECDSA is cryptography's; C12 in control/README.md says why no library for COSE is
used.  Tests verify what is made here by cwt.
"""

from collections.abc import Callable
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384


TAG_SIGN1: Final = 18
COORDINATE_BYTES: Final = 48  # of P-384
SIGNATURE_BYTES: Final = 2 * COORDINATE_BYTES
_ALGORITHM, _ES384 = 1, -35
_CONTEXT: Final = "Signature1"
_KEY_TYPE, _EC2 = 1, 2
_CURVE, _P384, _X, _Y = -1, 2, -2, -3

Sign = Callable[[bytes], bytes]


def encoded(value: Any) -> bytes:
    """Return *value* in CBOR; the same value is always the same bytes."""
    return cbor2.dumps(value, canonical=True)


def es384(key: EllipticCurvePrivateKey) -> Sign:
    """Return what signs with *key*, which is on P-384: r and s, big-endian."""

    def sign(content: bytes) -> bytes:
        signed = key.sign(content, ECDSA(SHA384(), deterministic_signing=True))
        return b"".join(_coordinate(part) for part in decode_dss_signature(signed))

    return sign


def sign1(payload: bytes, sign: Sign) -> bytes:
    """Return a COSE_Sign1, with its tag, of *payload* that *sign* signs by ES384."""
    protected = encoded({_ALGORITHM: _ES384})
    signature = sign(encoded([_CONTEXT, protected, b"", payload]))
    return encoded(cbor2.CBORTag(TAG_SIGN1, [protected, {}, payload, signature]))


def cose_key(x: bytes, y: bytes) -> bytes:
    """Return the COSE_Key of a point on P-384."""
    return encoded({_KEY_TYPE: _EC2, _CURVE: _P384, _X: x, _Y: y})


def cose_key_of(key: EllipticCurvePublicKey) -> bytes:
    """Return the COSE_Key of a public key on P-384."""
    numbers = key.public_numbers()
    return cose_key(_coordinate(numbers.x), _coordinate(numbers.y))


def _coordinate(number: int) -> bytes:
    return number.to_bytes(COORDINATE_BYTES, "big")
