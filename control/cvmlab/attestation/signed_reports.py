# SPDX-License-Identifier: GPL-2.0-or-later
"""SNP reports that a verifier accepts which trusts the test root.  Pure."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from cvmlab.attestation.snp_report import (
    ANY_KEY,
    CHIP_KEY,
    PROVIDER_KEY,
    Processor,
    ReportKey,
    Signer,
)
from cvmlab.pki.authorities import Pki
from cvmlab.pki.platforms import SnpPlatform


_NUMBER_BYTES: Final = 72
_SECRET_BYTES: Final = 32


def report_signature(key: EllipticCurvePrivateKey, content: bytes) -> bytes:
    """Return r and s of a P-384 signature, 72 bytes each, little-endian."""
    signed = key.sign(content, ECDSA(SHA384(), deterministic_signing=True))
    return b"".join(part.to_bytes(_NUMBER_BYTES, "little") for part in decode_dss_signature(signed))


def report_signer(pki: Pki, platform: SnpPlatform, *, wrong_key: bool = False) -> Signer:
    """Return who signs the reports of guests on *platform*: a VLEK comes before the VCEK.

    *wrong_key*: another key signs than that of the certificate.
    """
    wrong = pki.seed.ec_key("wrong key", SECP384R1())
    vcek = wrong if wrong_key else pki.vcek(platform).ec_key
    chip_key = ReportKey.vcek(lambda content: report_signature(vcek, content))
    keys = {ANY_KEY: chip_key, CHIP_KEY: chip_key}
    if platform.csp:
        vlek = wrong if wrong_key else pki.vlek(platform).ec_key
        provider_key = ReportKey.vlek(lambda content: report_signature(vlek, content))
        keys |= {ANY_KEY: provider_key, PROVIDER_KEY: provider_key}
    processor = Processor(
        report_version=platform.made.report_version,
        cpuid=platform.made.cpuid,
        tcb=platform.tcb,
        chip=platform.chip,
        secret=pki.seed.data(f"derived keys {platform.key}", _SECRET_BYTES),
    )
    return Signer(processor, keys)
