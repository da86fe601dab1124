# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys and numbers from a seed: the same seed and name always give the same ones.  Pure.

So a test can have a trust anchor as a constant.  None of these keys is a secret.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurve,
    EllipticCurvePrivateKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from cvmlab.pki.rsa_primes import rsa_key


_SERIAL_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Seed:
    """What all keys of a PKI come from."""

    text: str

    def data(self, name: str, size: int) -> bytes:
        """Return *size* bytes for *name*."""
        return hashlib.shake_256(f"cvmlab test pki\0{self.text}\0{name}".encode()).digest(size)

    def serial(self, name: str) -> int:
        """Return a serial number for a certificate: positive, and of one length in DER."""
        return int.from_bytes(b"\x40" + self.data(f"serial\0{name}", _SERIAL_BYTES - 1), "big")

    def ec_key(self, name: str, curve: EllipticCurve) -> EllipticCurvePrivateKey:
        """Return a private key.  A number of one bit less than the curve has is always one."""
        number = int.from_bytes(self.data(f"key\0{name}", (curve.key_size + 7) // 8), "big")
        return derive_private_key(number >> 1 | 1, curve)

    def rsa_key(self, name: str, bits: int) -> RSAPrivateKey:
        """Return a private key; one of 4096 bits takes seconds."""
        return rsa_key(lambda part, size: self.data(f"{part}\0{name}", size), bits)
