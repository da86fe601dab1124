# SPDX-License-Identifier: GPL-2.0-or-later
"""The lines of docs/attestation.md for verifiers in Python; tests/tools has those of others."""

from collections.abc import Callable
from importlib.metadata import version

import omne_attest

from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.attestation.snp_report import ANY_KEY, signed_report
from cvmlab.collateral.web_services import web_services
from cvmlab.pki.platforms import SnpPlatform, TdxPlatform
from tests.changed_evidence import QUOTE_PLACES, REPORT_PLACES
from tests.fakes.pkis import DATA, SNP_LAUNCH, small_pki, td_report
from tests.verifier_table import Verdict, is_refused, refused
from tests.verifiers import DcapQvl, OmneAttest, VoltageVerify


PKI = small_pki()
PLATFORM = TdxPlatform()
QUOTE = quote_signer(PKI, PLATFORM)(td_report())


def named(package: str) -> str:
    return f"{package} {'.'.join(version(package).split('.')[:2])}"


def require_quotes_in_document(
    package: str, told: str, status: Callable[[bytes], str], vendors: Callable[[bytes], str]
) -> None:
    """Have the document say what a verifier of quotes does, which was told of our root or is not."""
    Verdict(
        named(package), "TDX", told, status(QUOTE) == "UpToDate",
        refused(status, QUOTE, QUOTE_PLACES), is_refused(vendors, QUOTE),
    ).require_in_document()  # fmt: skip


def test_dcap_qvl() -> None:
    ours, vendors = DcapQvl(PKI.tdx.root.der), DcapQvl(b"")
    with web_services(PKI) as address:
        collateral = ours.collateral(address, QUOTE)
    require_quotes_in_document(
        "dcap-qvl", "`verify_with_root_ca` (DER)",
        lambda quote: ours.status(quote, collateral), lambda quote: vendors.status(quote, collateral),
    )  # fmt: skip


def test_voltage_verify() -> None:
    ours, vendors = VoltageVerify(PKI.tdx.root.certificate), VoltageVerify(None)
    with web_services(PKI) as address:
        collateral = ours.collateral(address, PLATFORM.fmspc.hex())
    require_quotes_in_document(
        "voltage-verify", "`trusted_root=` (a certificate)",
        lambda quote: ours.status(quote, collateral), lambda quote: vendors.status(quote, collateral),
    )  # fmt: skip


def test_omne_attest() -> None:
    platform = SnpPlatform(product="genoa")
    chain, vcek = PKI.snp["genoa"], PKI.vcek(platform).der
    signer = report_signer(PKI, platform)
    key = signer.key(ANY_KEY)
    assert key is not None
    report = signed_report(SNP_LAUNCH, DATA, 0, signer.processor, key)
    verifier, vendor = OmneAttest(chain), OmneAttest(chain, omne_attest.vectors.ARK_SHA256)
    Verdict(
        named("omne-attest"), "SEV-SNP, Milan and Genoa", "SHA-256 of the ARK",
        not is_refused(lambda made: verifier.report(made, vcek), report),
        refused(lambda made: verifier.report(made, vcek), report, REPORT_PLACES),
        is_refused(lambda made: vendor.report(made, vcek), report),
    ).require_in_document()  # fmt: skip
