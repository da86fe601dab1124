# SPDX-License-Identifier: GPL-2.0-or-later
"""CCA tokens that a verifier accepts which knows the platform's key of the test PKI.  Pure."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cvmlab.attestation.cca_token import TokenSigner
from cvmlab.attestation.cose import cose_key_of, es384
from cvmlab.pki.authorities import Pki
from cvmlab.pki.platforms import CcaPlatform


def token_signer(pki: Pki, platform: CcaPlatform, *, wrong_key: bool = False) -> TokenSigner:
    """Return who signs the tokens of realms on *platform*.

    *wrong_key*: another key signs for the platform than that of the certificate.
    """
    known = pki.cca.cpak.ec_key
    used = pki.seed.ec_key("wrong key", SECP384R1()) if wrong_key else known
    realm_key = pki.seed.ec_key("realm attestation key", SECP384R1())
    public = known.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return TokenSigner(
        platform=platform,
        instance=hashlib.sha256(public).digest(),
        sign_platform=es384(used),
        realm_key=cose_key_of(realm_key.public_key()),
        sign_realm=es384(realm_key),
    )
