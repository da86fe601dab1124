# SPDX-License-Identifier: GPL-2.0-or-later
"""CCA attestation tokens: RMM specification (Arm DEN0137, 1.0), A7.2, and draft-ffm-rats-cca-token.  Pure.

A token has two parts.  The realm token has the realm's claims and is signed by the realm attestation
key.  The platform token vouches for that key: its challenge is the key's hash.  The platform's key
(CPAK) signs it, and a verifier has to know that one.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import cbor2

from cvmlab.attestation.cose import (
    COORDINATE_BYTES,
    SIGNATURE_BYTES,
    Sign,
    cose_key,
    encoded,
    sign1,
)
from cvmlab.attestation.service_frames import BadFrameError
from cvmlab.pki.certificates import EMULATED
from cvmlab.pki.platforms import CcaPlatform


TAG_CCA_TOKEN: Final = 399
PLATFORM_TOKEN: Final = 44234
REALM_TOKEN: Final = 44241
# RMM, B5.4: a measurement, a challenge, a personalization value
WORD_BYTES: Final = 64
REMS: Final = 4
# plugin/profiles/cca/token.h: what the plugin asks with
_MAGIC: Final = b"cvmlcca1"
REQUEST: Final = struct.Struct(f"<8sB7x{WORD_BYTES}s{WORD_BYTES}s{(1 + REMS) * WORD_BYTES}s")
_HASHES: Final = (("sha-256", 32), ("sha-512", 64))

# Claims of both, and of the realm: A7.2.3.1
_CHALLENGE, _PROFILE = 10, 265
_PERSONALIZATION, _HASH, _PUBLIC_KEY, _RIM, _REMS, _KEY_HASH = (
    44235, 44236, 44237, 44238, 44239, 44240,
)  # fmt: skip
_REALM_PROFILE: Final = "tag:arm.com,2023:realm#1.0.0"
# Of the platform: A7.2.3.2
_INSTANCE, _LIFECYCLE, _IMPLEMENTATION, _COMPONENTS, _CONFIG, _PLATFORM_HASH = (
    256, 2395, 2396, 2399, 2401, 2402,
)  # fmt: skip
_PLATFORM_PROFILE: Final = "tag:arm.com,2023:cca_platform#1.0.0"
_TYPE, _MEASUREMENT, _VERSION, _SIGNER = 1, 2, 4, 5
_UEID_RANDOM: Final = b"\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class RealmClaims:
    """What a realm's monitor knows of it; measurements are as long as the hash."""

    hash_name: str
    challenge: bytes
    personalization: bytes
    rim: bytes
    rems: tuple[bytes, ...]

    @classmethod
    def of(cls, request: bytes) -> Self:
        """Read a request of the plugin; raise BadFrameError if it is not one."""
        if len(request) != REQUEST.size:
            raise BadFrameError(f"a request in {len(request)} bytes")
        magic, algorithm, challenge, personalization, words = REQUEST.unpack(request)
        if magic != _MAGIC or algorithm >= len(_HASHES):
            raise BadFrameError("a request for something else than a token")
        name, size = _HASHES[algorithm]
        rim, *rems = (words[at : at + size] for at in range(0, len(words), WORD_BYTES))
        return cls(
            hash_name=name,
            challenge=challenge,
            personalization=personalization,
            rim=rim,
            rems=tuple(rems),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSigner:
    """Who signs: ``instance`` is the hash of the platform's key, ``realm_key`` a COSE_Key."""

    platform: CcaPlatform
    instance: bytes
    sign_platform: Sign
    realm_key: bytes
    sign_realm: Sign
    alter: Callable[[bytes], bytes] = bytes


def _fake(size: int) -> bytes:
    return (b"FAKE" * (size // 4 + 1))[:size]


# Each key and each signature of it says FAKE.
FAKE_SIGNER: Final = TokenSigner(
    platform=CcaPlatform(),
    instance=_fake(32),
    sign_platform=lambda _content: _fake(SIGNATURE_BYTES),
    realm_key=cose_key(_fake(COORDINATE_BYTES), _fake(COORDINATE_BYTES)),
    sign_realm=lambda _content: _fake(SIGNATURE_BYTES),
)


def token(claims: RealmClaims, signer: TokenSigner = FAKE_SIGNER) -> bytes:
    """Return the token of a realm with these claims."""
    realm = sign1(encoded(_realm(claims, signer)), signer.sign_realm)
    platform = sign1(encoded(_platform(signer)), signer.sign_platform)
    whole = {PLATFORM_TOKEN: platform, REALM_TOKEN: realm}
    return signer.alter(encoded(cbor2.CBORTag(TAG_CCA_TOKEN, whole)))


def _realm(claims: RealmClaims, signer: TokenSigner) -> dict[int, Any]:
    return {
        _CHALLENGE: claims.challenge,
        _PROFILE: _REALM_PROFILE,
        _PERSONALIZATION: claims.personalization,
        _HASH: claims.hash_name,
        _PUBLIC_KEY: signer.realm_key,
        _RIM: claims.rim,
        _REMS: list(claims.rems),
        _KEY_HASH: "sha-256",
    }


def _platform(signer: TokenSigner) -> dict[int, Any]:
    platform = signer.platform
    component = {
        _TYPE: f"{EMULATED}: there is no monitor",
        _MEASUREMENT: hashlib.sha256(f"{EMULATED}: monitor".encode()).digest(),
        _VERSION: platform.version,
        _SIGNER: hashlib.sha256(f"{EMULATED}: signer of monitors".encode()).digest(),
    }
    return {
        _CHALLENGE: hashlib.sha256(signer.realm_key).digest(),
        _INSTANCE: _UEID_RANDOM + signer.instance,
        _PROFILE: _PLATFORM_PROFILE,
        _LIFECYCLE: platform.lifecycle,
        _IMPLEMENTATION: platform.implementation_id,
        _COMPONENTS: [component],
        _CONFIG: platform.config,
        _PLATFORM_HASH: "sha-256",
    }
