# SPDX-License-Identifier: GPL-2.0-or-later
"""A key distribution service that knows the test PKI: certificates of any chip at any TCB.  Pure.

"VCEK Certificate and KDS Interface Specification" (AMD 57230).
"""

from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from cvmlab.base.errors import ConfigError
from cvmlab.collateral.tcb_documents import Issue
from cvmlab.collateral.web_answers import WebAnswer, WebRequest, refusal
from cvmlab.pki.authorities import Pki
from cvmlab.pki.certificates import Identity, revocation_list
from cvmlab.pki.platforms import PRODUCTS, SnpPlatform


KEYS: Final = ("vcek", "vlek")
_QUERY: Final = {
    "fmcSPL": "fmc", "blSPL": "boot-loader", "teeSPL": "tee", "snpSPL": "snp",
    "ucodeSPL": "microcode",
}  # fmt: skip


def answer(pki: Pki, issue: Issue, request: WebRequest) -> WebAnswer:
    """Return what the service answers."""
    key, *rest = request.parts
    words = {product.name: word for word, product in PRODUCTS.items()}
    if len(rest) != 3 or rest[0] != "v1" or rest[1] not in words:
        names = ", ".join(words)
        return refusal(404, f"paths are /{key}/v1/PRODUCT/…, and products are {names}")
    word, wanted = words[rest[1]], rest[2]
    ark, issuer = pki.snp[word].ark, pki.snp[word].issuer(key)
    if wanted == "cert_chain":
        return WebAnswer((issuer.pem + ark.pem).encode(), "application/x-pem-file")
    if wanted == "crl":
        return _list(ark, issuer, issue)
    return _certificate(pki, key, word, request, wanted)


def _list(ark: Identity, issuer: Identity, issue: Issue) -> WebAnswer:
    """The ARK's list has authorities alone: verifiers look for the issuer of a VCEK or VLEK."""
    revoked = [issuer.certificate.serial_number] if issue.revokes_authorities else []
    made = revocation_list(ark, revoked, made=issue.made, until=issue.until)
    return WebAnswer(made.public_bytes(Encoding.DER), "application/pkix-crl")


def _certificate(pki: Pki, key: str, word: str, request: WebRequest, chip: str) -> WebAnswer:
    if key != "vcek":
        return refusal(401, "a VLEK is for its cloud provider alone")
    versions = [f"{name}={request.query.get(query, 0)}" for query, name in _QUERY.items()]
    try:
        platform = SnpPlatform.of([f"product={word}", f"chip-id={chip}", *versions])
    except ConfigError as error:
        return refusal(400, error.message)
    return WebAnswer(pki.vcek(platform).der, "application/pkix-cert")
