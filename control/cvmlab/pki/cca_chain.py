# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates for CCA: a root, and the platform's attestation key (CPAK).  Pure.

Arm defines no certificate for the key: a manufacturer endorses it to verifiers.  The certificate here
is for verifiers that want one; others take the key out of it.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1

from cvmlab.pki.certificates import EMULATED, Identity, Subject, distinguished_name, issue
from cvmlab.pki.derived import Seed


@dataclass(frozen=True, slots=True)
class CcaChain:
    """What endorses CCA platforms: all of a PKI have one key."""

    root: Identity
    cpak: Identity


def cca_chain(seed: Seed) -> CcaChain:
    """Return the chain of *seed*."""
    root = issue(_subject(seed, "CCA Test Root CA", is_authority=True))
    return CcaChain(root, issue(_subject(seed, "CCA Platform Attestation Key"), root))


def _subject(seed: Seed, common_name: str, *, is_authority: bool = False) -> Subject:
    return Subject(
        name=distinguished_name(common_name, organization_name=EMULATED),
        key=seed.ec_key(common_name, SECP384R1()),
        serial=seed.serial(common_name),
        is_authority=is_authority,
    )
