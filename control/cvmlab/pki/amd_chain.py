# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates as AMD issues them for SNP: ARK, ASK and ASVK of a product, VCEK and VLEK.  Pure.

"VCEK Certificate and KDS Interface Specification" (AMD 57230) has the names and extensions.
Verifiers compare most of the name and the place of the revocation list, so those are AMD's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from cvmlab.pki import der
from cvmlab.pki.certificates import (
    Extensions,
    Identity,
    Subject,
    distinguished_name,
    issue,
    revocation_place,
)
from cvmlab.pki.derived import Seed
from cvmlab.pki.platforms import PRODUCTS, Product, SnpPlatform


RSA_BITS: Final = 4096
_AMD: Final = "1.3.6.1.4.1.3704.1"
_PLACES: Final = {
    "organizational_unit_name": "Engineering", "country_name": "US",
    "locality_name": "Santa Clara", "state_or_province_name": "CA",
    "organization_name": "Advanced Micro Devices",
}  # fmt: skip
_VERSIONS: Final = {"boot_loader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
_RESERVED_VERSIONS: Final = (4, 5, 6, 7)


@dataclass(frozen=True, slots=True)
class AmdChain:
    """What signs for the processors of one product: ASK for VCEKs, ASVK for VLEKs."""

    ark: Identity
    ask: Identity
    asvk: Identity

    def issuer(self, key: str) -> Identity:
        """Return what issues certificates for a kind of key, vcek or vlek."""
        return {"vcek": self.ask, "vlek": self.asvk}[key]


@dataclass(frozen=True, slots=True)
class AmdKeys:
    """Keys that take seconds to make.  All products share them; their certificates differ."""

    ark: RSAPrivateKey
    ask: RSAPrivateKey
    asvk: RSAPrivateKey


def amd_keys(seed: Seed, bits: int = RSA_BITS) -> AmdKeys:
    """Return the keys of *seed*."""
    return AmdKeys(*(seed.rsa_key(name, bits) for name in ("ark", "ask", "asvk")))


def amd_chains(seed: Seed, keys: AmdKeys) -> Mapping[str, AmdChain]:
    """Return the chain of each product."""
    return {word: _chain(seed, product, keys) for word, product in PRODUCTS.items()}


def _chain(seed: Seed, product: Product, keys: AmdKeys) -> AmdChain:
    lists = revocation_place(f"https://kdsintf.amd.com/vcek/v1/{product.name}/crl")

    def authority(common_name: str, key: RSAPrivateKey) -> Subject:
        return Subject(
            name=distinguished_name(common_name, **_PLACES), key=key, is_authority=True,
            serial=seed.serial(common_name), extensions=(lists,),
        )  # fmt: skip

    ark = issue(authority(f"ARK-{product.name}", keys.ark))
    ask = issue(authority(f"SEV-{product.name}", keys.ask), ark)
    return AmdChain(ark, ask, issue(authority(f"SEV-VLEK-{product.name}", keys.asvk), ark))


def vcek(seed: Seed, chain: AmdChain, platform: SnpPlatform) -> Identity:
    """Return the certificate of a chip at its TCB, and the key that signs its reports."""
    chip = platform.chip[: platform.made.chip_bytes]
    extensions = (*_tcb_extensions(platform), (_extension("4", chip), False))
    return issue(_leaf(seed, "SEV-VCEK", platform.key, extensions), chain.ask)


def vlek(seed: Seed, chain: AmdChain, platform: SnpPlatform) -> Identity:
    """Return the certificate of a cloud provider at a TCB, and its key."""
    name = f"{platform.product} {platform.csp} {platform.tcb.hex()}"
    extensions = (*_tcb_extensions(platform), (_extension("5", der.text(platform.csp)), False))
    return issue(_leaf(seed, "SEV-VLEK", name, extensions), chain.asvk)


def _leaf(seed: Seed, common_name: str, key: str, extensions: Extensions) -> Subject:
    """Return who a VCEK or VLEK is for; like AMD's, it has no extensions but AMD's."""
    name = f"{common_name} {key}"
    return Subject(
        name=distinguished_name(common_name, **_PLACES), key=seed.ec_key(name, SECP384R1()),
        serial=seed.serial(name), extensions=extensions, is_bare=True,
    )  # fmt: skip


def _tcb_extensions(platform: SnpPlatform) -> Iterator[tuple[x509.ExtensionType, bool]]:
    numbers = {_VERSIONS[name]: value for name, value in platform.versions.items()}
    numbers |= dict.fromkeys(_RESERVED_VERSIONS, 0)
    yield _extension("1", der.integer(int("fmc" in platform.versions))), False
    yield _extension("2", der.text(platform.made.stepping_name)), False
    for number in sorted(numbers):
        yield _extension(f"3.{number}", der.integer(numbers[number])), False


def _extension(suffix: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_AMD}.{suffix}"), value)
