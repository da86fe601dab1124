# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates and revocation lists of the test PKI; the same input gives the same bytes.  Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cvmlab.pki import pss


EMULATED: Final = "cvmlab test, emulated"
VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
VALID_TO: Final = datetime(2049, 12, 31, tzinfo=UTC)

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey
Extensions = Iterable[tuple[x509.ExtensionType, bool]]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def common_name(self) -> str:
        (name,) = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(name.value)

    @property
    def ec_key(self) -> EllipticCurvePrivateKey:
        """The key of one that signs quotes, reports or documents."""
        if not isinstance(self.key, EllipticCurvePrivateKey):
            raise TypeError("this is an RSA key")
        return self.key


def distinguished_name(common_name: str, **places: str) -> x509.Name:
    """Return a name.  Every one says that it is emulated, where verifiers do not compare."""
    attributes = [(NameOID.COMMON_NAME, common_name)]
    attributes += [(getattr(NameOID, kind.upper()), value) for kind, value in places.items()]
    attributes.append((NameOID.DN_QUALIFIER, EMULATED))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who a certificate is for; one that is ``is_bare`` has its own extensions only."""

    name: x509.Name
    key: PrivateKey
    serial: int
    is_authority: bool = False
    extensions: Extensions = ()
    is_bare: bool = False


def issue(subject: Subject, issuer: Identity | None = None) -> Identity:
    """Return the certificate that *issuer* signs; without one it is a root."""
    signer = subject.key if issuer is None else issuer.key
    name = subject.name if issuer is None else issuer.certificate.subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.name)
        .issuer_name(name)
        .public_key(subject.key.public_key())
        .serial_number(subject.serial)
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_TO)
    )
    usual = () if subject.is_bare else _usual_extensions(subject, signer)
    for extension, critical in (*usual, *subject.extensions):
        builder = builder.add_extension(extension, critical)
    if isinstance(signer, EllipticCurvePrivateKey):
        made = builder.sign(signer, SHA256(), ecdsa_deterministic=True)
    else:
        signed = builder.sign(signer, SHA384(), rsa_padding=pss.PADDING)
        whole = signed.public_bytes(Encoding.DER)
        made = x509.load_der_x509_certificate(
            _signed_again(whole, signer, signed.tbs_certificate_bytes)
        )
    return Identity(made, subject.key)


def revocation_place(url: str) -> tuple[x509.ExtensionType, bool]:
    """Return the extension that says where the list of revoked certificates is."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.CRLDistributionPoints([point]), False


def _usual_extensions(subject: Subject, signer: PrivateKey) -> Extensions:
    yield x509.BasicConstraints(subject.is_authority, None), True
    yield _usage(is_authority=subject.is_authority), True
    yield x509.SubjectKeyIdentifier.from_public_key(subject.key.public_key()), False
    yield _issuer_key(signer), False


def revocation_list(
    issuer: Identity, serials: Iterable[int], *, made: datetime, until: datetime
) -> x509.CertificateRevocationList:
    """Return the list of revoked certificates that *issuer* signs."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(made)
        .next_update(until)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(_issuer_key(issuer.key), critical=False)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made)
        builder = builder.add_revoked_certificate(revoked.build())
    if isinstance(issuer.key, EllipticCurvePrivateKey):
        return builder.sign(issuer.key, SHA256(), ecdsa_deterministic=True)
    signed = builder.sign(issuer.key, SHA384(), rsa_padding=pss.PADDING)
    whole = signed.public_bytes(Encoding.DER)
    return x509.load_der_x509_crl(_signed_again(whole, issuer.key, signed.tbs_certlist_bytes))


def _signed_again(whole: bytes, key: RSAPrivateKey, content: bytes) -> bytes:
    """Replace the signature, which is at the end, by one that repeats."""
    signature = pss.sign(key, content)
    return whole[: -len(signature)] + signature


def _issuer_key(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, content_commitment=not is_authority,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False, decipher_only=False,
    )  # fmt: skip
