# SPDX-License-Identifier: GPL-2.0-or-later
"""RSA keys from given bytes.  Pure.

``cryptography`` makes them from the system's random numbers only, and other libraries do not promise
the same key from the same bytes in their next version.
"""

from collections.abc import Callable
from math import lcm
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
    RSAPublicNumbers,
    rsa_crt_dmp1,
    rsa_crt_dmq1,
    rsa_crt_iqmp,
)


_EXPONENT: Final = 65537
_SIEVE: Final = 10_000
_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)

Bytes = Callable[[str, int], bytes]


def rsa_key(random: Bytes, bits: int) -> RSAPrivateKey:
    """Return the key that ``random(name, size)`` makes."""
    p, q = (_prime_from(random(f"prime {name}", bits // 16)) for name in "pq")
    d = pow(_EXPONENT, -1, lcm(p - 1, q - 1))
    public = RSAPublicNumbers(_EXPONENT, p * q)
    return RSAPrivateNumbers(
        p, q, d, rsa_crt_dmp1(d, p), rsa_crt_dmq1(d, q), rsa_crt_iqmp(p, q), public
    ).private_key()


def _small_primes() -> list[int]:
    sieve = bytearray([1]) * _SIEVE
    for number in range(3, _SIEVE, 2):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(sieve[number * number :: number]))
    return [number for number in range(3, _SIEVE, 2) if sieve[number]]


def _prime_from(start: bytes) -> int:
    """Return the first fitting prime from *start* on, with its two highest bits set."""
    first = int.from_bytes(start, "big") | 3 << (8 * len(start) - 2) | 1
    remainders = [(first % prime, prime) for prime in _small_primes()]
    step = 0
    while True:
        if all((remainder + step) % prime for remainder, prime in remainders):
            number = first + step
            if (number - 1) % _EXPONENT and _is_prime(number):
                return number
        step += 2


def _is_prime(number: int) -> bool:
    """Tell by Miller and Rabin; whoever chose the seed to deceive it would deceive himself."""
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True
