# SPDX-License-Identifier: GPL-2.0-or-later
"""RSA-PSS with SHA-384 and a salt that is no random number, so that certificates repeat.  Pure.

RFC 8017, 8.1.1 and 9.1.1.  ``cryptography`` chooses the salt itself.
"""

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA384


SALT_BYTES: Final = 48
PADDING: Final = PSS(MGF1(SHA384()), SALT_BYTES)


def sign(key: RSAPrivateKey, message: bytes) -> bytes:
    """Return the signature; the same for the same key and message."""
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    encoded = int.from_bytes(_encoded(message, modulus.bit_length() - 1), "big")
    at_p = pow(encoded, numbers.dmp1, numbers.p)
    at_q = pow(encoded, numbers.dmq1, numbers.q)
    whole = at_q + (at_p - at_q) * numbers.iqmp % numbers.p * numbers.q
    return whole.to_bytes((modulus.bit_length() + 7) // 8, "big")


def _encoded(message: bytes, bits: int) -> bytes:
    digest = hashlib.sha384(message).digest()
    salt = hashlib.sha384(b"salt" + digest).digest()
    hashed = hashlib.sha384(bytes(8) + digest + salt).digest()
    size = (bits + 7) // 8 - len(hashed) - 1
    block = (b"\x01" + salt).rjust(size, b"\0")
    masked = bytearray(a ^ b for a, b in zip(block, _mask(hashed, size), strict=True))
    masked[0] &= 0xFF >> (-bits % 8)
    return bytes(masked) + hashed + b"\xbc"


def _mask(seed: bytes, size: int) -> bytes:
    blocks = (
        hashlib.sha384(seed + counter.to_bytes(4, "big")).digest()
        for counter in range(size // hashlib.sha384().digest_size + 1)
    )
    return b"".join(blocks)[:size]
