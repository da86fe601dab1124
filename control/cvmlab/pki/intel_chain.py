# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates as Intel issues them for TDX: root, PCK CAs, TCB signing, and the PCK of a platform.  Pure.

"Intel SGX PCK Certificate and Certificate Revocation List Profile Specification" has the names and
the extensions.  Verifiers compare common names and count extensions, so those are Intel's; the lists
of revoked certificates of this PKI are at a PCCS of `cvmlab attest serve`.
"""

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1

from cvmlab.pki import der
from cvmlab.pki.certificates import (
    EMULATED,
    Identity,
    Subject,
    distinguished_name,
    issue,
    revocation_place,
)
from cvmlab.pki.derived import Seed
from cvmlab.pki.platforms import TdxPlatform


_SGX: Final = "1.2.840.113741.1.13.1"
_PPID_BYTES: Final = 16
_ROOT_LISTS: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_PCK_LISTS: Final = (
    "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca={}&encoding=der"
)


@dataclass(frozen=True, slots=True)
class IntelChain:
    """What signs for TDX platforms."""

    root: Identity
    platform_ca: Identity
    processor_ca: Identity
    tcb_signing: Identity

    def pck_ca(self, word: str) -> Identity:
        """Return the CA that issues the PCK certificates of some platforms, by a word of PCK_CAS."""
        return {"platform": self.platform_ca, "processor": self.processor_ca}[word]


def intel_chain(seed: Seed) -> IntelChain:
    """Return the chain of *seed*."""
    root = issue(_subject(seed, "Intel SGX Root CA", is_authority=True))
    return IntelChain(
        root,
        issue(_subject(seed, "Intel SGX PCK Platform CA", is_authority=True), root),
        issue(_subject(seed, "Intel SGX PCK Processor CA", is_authority=True), root),
        issue(_subject(seed, "Intel SGX TCB Signing"), root),
    )


def pck(seed: Seed, chain: IntelChain, platform: TdxPlatform) -> Identity:
    """Return the certificate of a platform at its TCB level, and the key that signs QE reports."""
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(_SGX), _sgx_extension(seed, platform)
    )
    subject = _subject(
        seed, "Intel SGX PCK Certificate", key=f"pck {platform.key}",
        lists=_PCK_LISTS.format(platform.ca), extensions=((extension, False),),
    )  # fmt: skip
    return issue(subject, chain.pck_ca(platform.ca))


def _subject(
    seed: Seed,
    common_name: str,
    *,
    key: str = "",
    is_authority: bool = False,
    lists: str = _ROOT_LISTS,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> Subject:
    name = key or common_name
    return Subject(
        name=distinguished_name(common_name, organization_name=EMULATED),
        key=seed.ec_key(name, SECP256R1()),
        serial=seed.serial(name),
        is_authority=is_authority,
        extensions=(revocation_place(lists), *extensions),
    )


def _sgx_extension(seed: Seed, platform: TdxPlatform) -> bytes:
    def pair(suffix: str, value: bytes) -> bytes:
        return der.sequence(der.identifier(_SGX + suffix), value)

    components = (
        pair(f".2.{number}", der.integer(svn)) for number, svn in enumerate(platform.cpu_svn, 1)
    )
    tcb = der.sequence(
        *components,
        pair(".2.17", der.integer(platform.pce_svn)),
        pair(".2.18", der.octets(bytes(platform.cpu_svn))),
    )
    return der.sequence(
        pair(".1", der.octets(seed.data(f"ppid {platform.fmspc.hex()}", _PPID_BYTES))),
        pair(".2", tcb),
        pair(".3", der.octets(platform.pce_id)),
        pair(".4", der.octets(platform.fmspc)),
        pair(".5", der.enumerated(0)),
    )
