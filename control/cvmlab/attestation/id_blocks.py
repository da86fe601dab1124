# SPDX-License-Identifier: GPL-2.0-or-later
"""ID blocks, by which the owner of an SNP guest says what may be launched.  Pure.

"SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), SNP_LAUNCH_FINISH.  The plugin
compares a block with the launch; the signatures are verified here, before QEMU starts.
"""

import base64
import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from cvmlab.attestation.signed_reports import report_signature
from cvmlab.base.errors import ConfigError
from cvmlab.profiles.guest_object import given_properties, is_on


_BLOCK: Final = struct.Struct("<48s16s16sIIQ")  # digest, family, image, version, SVN, policy
_VERSION: Final = 1
_NUMBER_BYTES: Final = 72
_KEY: Final = struct.Struct("<I72s72s880x")
_P384: Final = 2
_ECDSA_P384_SHA384: Final = 1
_AUTH: Final = struct.Struct("<II56x512s1028s60x512s1028s892x")
_HINT: Final = "`cvmlab attest id-block DIR` with the options of the boot makes both"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """What may be launched, and what a report says then."""

    digest: bytes
    policy: int
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0

    def packed(self) -> bytes:
        """Return the 96 bytes that are signed."""
        return _BLOCK.pack(
            self.digest, self.family_id, self.image_id, _VERSION, self.guest_svn, self.policy
        )


def public_key(key: EllipticCurvePrivateKey) -> bytes:
    """Return a P-384 key as the firmware has it: the curve, x and y, little-endian."""
    numbers = key.public_key().public_numbers()
    return _KEY.pack(
        _P384, *(part.to_bytes(_NUMBER_BYTES, "little") for part in (numbers.x, numbers.y))
    )


def key_digest(key: EllipticCurvePrivateKey) -> bytes:
    """Return ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a report."""
    return hashlib.sha384(public_key(key)).digest()


@dataclass(frozen=True, slots=True)
class SignedBlock:
    """The contents of ``id-block`` and ``id-auth``, and whether the author's key is to be checked."""

    block: bytes
    auth: bytes
    has_author: bool

    @classmethod
    def made(
        cls,
        block: IdBlock,
        key: EllipticCurvePrivateKey,
        author: EllipticCurvePrivateKey | None = None,
    ) -> Self:
        """Sign *block* with *key*, and *key* with that of its author."""
        content, public = block.packed(), public_key(key)
        auth = _AUTH.pack(
            _ECDSA_P384_SHA384,
            0 if author is None else _ECDSA_P384_SHA384,
            report_signature(key, content),
            public,
            b"" if author is None else report_signature(author, public),
            b"" if author is None else public_key(author),
        )
        return cls(content, auth, author is not None)

    @property
    def options(self) -> tuple[str, ...]:
        """The properties of QEMU's guest object."""
        texts = (base64.b64encode(content).decode() for content in (self.block, self.auth))
        given = tuple(
            f"{name}={text}" for name, text in zip(("id-block", "id-auth"), texts, strict=True)
        )
        return (*given, "author-key-enabled=on") if self.has_author else given

    def verify(self) -> None:
        """Raise ConfigError if a signature is not of its key."""
        _, _, block_signature, key, key_signature, author = _AUTH.unpack(self.auth)
        checks = [("id-block: the ID key", key, block_signature, self.block)]
        if self.has_author:
            checks.append(("id-auth: the author key", author, key_signature, key))
        for what, signer, signature, content in checks:
            if not _is_signed(signer, signature, content):
                raise ConfigError(f"{what} has not signed it", hint=_HINT)


def require_signed(options: Iterable[str]) -> None:
    """Raise ConfigError unless these properties of a guest object have an ID block that is signed."""
    given = given_properties(options)
    SignedBlock(
        _decoded(given, "id-block", _BLOCK.size),
        _decoded(given, "id-auth", _AUTH.size),
        is_on(given.get("author-key-enabled")),
    ).verify()


def _decoded(given: Mapping[str, str], name: str, size: int) -> bytes:
    if name not in given:
        raise ConfigError(f"an ID block needs --coco-option {name}=BASE64", hint=_HINT)
    try:
        found = base64.b64decode(given[name], validate=True)
    except ValueError:  # which binascii.Error is, too; characters beyond ASCII raise it itself
        found = b""
    if len(found) != size:
        raise ConfigError(f"--coco-option {name} is not {size} bytes in base64", hint=_HINT)
    return found


def _is_signed(signer: bytes, signature: bytes, content: bytes) -> bool:
    try:
        key, (r, s) = (
            _public(signer),
            (
                int.from_bytes(signature[at : at + _NUMBER_BYTES], "little")
                for at in (0, _NUMBER_BYTES)
            ),
        )
        key.verify(encode_dss_signature(r, s), content, ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(packed: bytes) -> EllipticCurvePublicKey:
    _curve, x, y = _KEY.unpack(packed)
    return EllipticCurvePublicNumbers(
        int.from_bytes(x, "little"), int.from_bytes(y, "little"), SECP384R1()
    ).public_key()
