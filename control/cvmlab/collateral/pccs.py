# SPDX-License-Identifier: GPL-2.0-or-later
"""A provisioning certificate caching service, version 4, that knows the test PKI.  Pure.

"PCCS API" of SGXDataCenterAttestationPrimitives.  It answers for any FMSPC: the level of the default
platform is the newest, what is below is out of date.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cvmlab.base.errors import ConfigError
from cvmlab.collateral.tcb_documents import (
    Issue,
    Technology,
    issuer_chain,
    pck_revocation_list,
    qe_identity,
    root_revocation_list,
    signed_document,
    tcb_info,
)
from cvmlab.collateral.web_answers import WebAnswer, WebRequest, refusal
from cvmlab.pki.authorities import Pki
from cvmlab.pki.platforms import PCK_CAS, TdxPlatform


_BELOW: Final = ("certification", "v4")


def answer(pki: Pki, issue: Issue, request: WebRequest) -> WebAnswer:
    """Return what the service answers."""
    _, *rest = request.parts
    if tuple(rest[:2]) != _BELOW:
        return refusal(404, "only version 4 is served: /tdx/certification/v4/…")
    found = _ANSWERS.get("/".join(rest[2:]))
    if found is None or (_technology(request) is Technology.TDX and found in _SGX_ONLY):
        return refusal(404, f"there is no {'/'.join(request.parts)}")
    return found(pki, issue, request)


def _technology(request: WebRequest) -> Technology:
    return Technology(request.parts[0])


def _tcb(pki: Pki, issue: Issue, request: WebRequest) -> WebAnswer:
    try:
        platform = TdxPlatform.of([f"fmspc={request.query.get('fmspc', '')}"])
    except ConfigError:
        return refusal(400, "fmspc must be 12 hexadecimal digits")
    info = tcb_info(platform, issue, technology=_technology(request))
    header = "TCB-Info-Issuer-Chain"
    return _document(pki, signed_document(pki, "tcbInfo", info), header)


def _identity(pki: Pki, issue: Issue, request: WebRequest) -> WebAnswer:
    identity = qe_identity(issue, technology=_technology(request))
    text = signed_document(pki, "enclaveIdentity", identity)
    return _document(pki, text, "SGX-Enclave-Identity-Issuer-Chain")


def _document(pki: Pki, text: str, header: str) -> WebAnswer:
    return WebAnswer(text.encode(), headers={header: quote(issuer_chain(pki))})


def _pck_list(pki: Pki, issue: Issue, request: WebRequest) -> WebAnswer:
    ca = request.query.get("ca", "")
    if ca not in PCK_CAS:
        return refusal(400, f"ca must be {' or '.join(PCK_CAS)}")
    found = pck_revocation_list(pki, issue, ca)
    headers = {"SGX-PCK-CRL-Issuer-Chain": quote(pki.tdx.pck_ca(ca).pem + pki.tdx.root.pem)}
    if request.query.get("encoding") == "der":
        return WebAnswer(found, "application/pkix-crl", headers)
    pem = x509.load_der_x509_crl(found).public_bytes(Encoding.PEM)
    return WebAnswer(pem, "application/x-pem-file", headers)


def _root_list(pki: Pki, issue: Issue, _request: WebRequest) -> WebAnswer:
    return WebAnswer(root_revocation_list(pki, issue).hex().encode(), "application/pkix-crl")


_ANSWERS: Final[Mapping[str, Callable[[Pki, Issue, WebRequest], WebAnswer]]] = {
    "tcb": _tcb,
    "qe/identity": _identity,
    "pckcrl": _pck_list,
    "rootcacrl": _root_list,
}
_SGX_ONLY: Final = (_pck_list, _root_list)
