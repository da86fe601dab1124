# SPDX-License-Identifier: GPL-2.0-or-later
"""Verifiers that people use, told of a test root; each returns what it says of good evidence, or raises."""

import asyncio
import hashlib
import json
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import dcap_qvl
import omne_attest
from cryptography import x509
from voltage_verify import pcs, tdx

from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.pki.amd_chain import AmdChain
from cvmlab.pki.authorities import Pki
from cvmlab.pki.cca_chain import cca_chain
from cvmlab.pki.derived import Seed
from cvmlab.pki.intel_chain import intel_chain
from cvmlab.pki.platforms import TdxPlatform
from tests.fakes.pkis import td_report


# Documents are of this second.
_EARLY_S = 1


async def _fetch(pccs: str, quote: bytes) -> Any:
    return await dcap_qvl.get_collateral(pccs, quote)


def _start() -> None:
    """Have dcap-qvl open what it keeps from its first fetch on: those descriptors are no test's."""
    seed = Seed("start")
    quote = quote_signer(Pki(seed, intel_chain(seed), {}, cca_chain(seed)), TdxPlatform())(
        td_report()
    )
    with suppress(RuntimeError, ValueError):
        asyncio.run(_fetch("http://127.0.0.1:9", quote))


_start()


def get(url: str) -> tuple[bytes, dict[str, str]]:
    """Return content and headers, lower-case, of a page."""
    with urllib.request.urlopen(url, timeout=20) as page:
        return page.read(), {name.lower(): value for name, value in page.headers.items()}


# Where dcap-qvl does not look at a quote, of QUOTE_PLACES.
UNREAD_BY_DCAP_QVL = {"certification type"}


@dataclass(frozen=True, slots=True)
class DcapQvl:
    """dcap-qvl, which fetches collateral from a PCCS by itself."""

    root: bytes  # DER; empty: the vendor's, which it has itself

    def collateral(self, pccs: str, quote: bytes) -> Any:
        found = json.loads(asyncio.run(_fetch(pccs, quote)).to_json())
        # It puts the quote's own certificates beside the rest; they are to be read from the quote.
        del found["pck_certificate_chain"]
        return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(found))

    def status(self, quote: bytes, collateral: Any, *, later_s: int = 0) -> str:
        now = int(time.time()) + _EARLY_S + later_s
        if not self.root:
            return str(dcap_qvl.verify(quote, collateral, now).status)
        return str(dcap_qvl.verify_with_root_ca(quote, collateral, self.root, now).status)


@dataclass(frozen=True, slots=True)
class VoltageVerify:
    """voltage-verify; its own fetcher knows the vendor's service only, so we fetch."""

    root: x509.Certificate | None  # None: the vendor's, which it has itself

    def collateral(self, pccs: str, fmspc: str) -> pcs.Collateral:
        body, headers = get(f"{pccs}/tdx/certification/v4/tcb?fmspc={fmspc}")
        info = pcs.SignedDocument(
            "tcb_info", body.decode(), unquote(headers["tcb-info-issuer-chain"])
        )
        body, headers = get(f"{pccs}/tdx/certification/v4/qe/identity")
        chain = unquote(headers["sgx-enclave-identity-issuer-chain"])
        enclave = pcs.SignedDocument("qe_identity", body.decode(), chain)
        pem, _ = get(f"{pccs}/sgx/certification/v4/pckcrl?ca=platform")
        return pcs.Collateral(info, enclave, pem.decode())

    def status(self, quote: bytes, collateral: pcs.Collateral) -> str:
        parsed = tdx.parse_quote(quote)
        tdx.verify_signatures(parsed, self.root)
        for document in (collateral.tcb_info, collateral.qe_identity):
            pcs.verify_document(document, self.root)
        found = pcs.evaluate(parsed, tdx.pck_info(parsed.pck_leaf), collateral)
        return str(found.status)


@dataclass(frozen=True, slots=True)
class OmneAttest:
    """omne-attest; the digest of the ARK is its root."""

    chain: AmdChain
    root: bytes = b""  # SHA-256 of an ARK; empty: that of the chain

    def report(self, report: bytes, vcek: bytes, **policy: Any) -> omne_attest.Report:
        root = self.root or hashlib.sha256(self.chain.ark.der).digest()
        return omne_attest.verify(
            report, vcek, self.chain.ask.der, self.chain.ark.der, root,
            omne_attest.Policy(**policy),
        )  # fmt: skip
