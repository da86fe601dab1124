# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotes and reports of the signers, in front of verifiers that people use; collateral comes by HTTP.

Guests' own, from configfs-tsm, are in tests/guest/test_attest.py.
"""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError

import dcap_qvl
import omne_attest
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from voltage_verify import tdx

from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.attestation.snp_report import ANY_KEY, signed_report
from cvmlab.collateral.scenarios import Scenario
from cvmlab.collateral.web_services import web_services
from cvmlab.pki.derived import Seed
from cvmlab.pki.platforms import SnpPlatform, TdxPlatform
from tests.changed_evidence import QUOTE_PLACES, REPORT_PLACES, flipped
from tests.fakes.pkis import DATA, MEASUREMENT, MRTD, SNP_LAUNCH, small_pki, td_report
from tests.verifiers import UNREAD_BY_DCAP_QVL, DcapQvl, OmneAttest, VoltageVerify, get


PLATFORM = TdxPlatform()
QUOTE = quote_signer(small_pki(), PLATFORM)(td_report())
DCAP = DcapQvl(small_pki().tdx.root.der)


@pytest.fixture
def services() -> Iterator[str]:
    with web_services(small_pki()) as address:
        yield address


@pytest.fixture(scope="module")
def collateral() -> Any:
    with web_services(small_pki()) as address:
        return DCAP.collateral(address, QUOTE)


def test_dcap_qvl_accepts_a_quote(collateral: Any) -> None:
    assert DCAP.status(QUOTE, collateral) == "UpToDate"
    assert dcap_qvl.parse_quote(QUOTE).report.mr_td == MRTD


def test_voltage_verify_accepts_a_quote(services: str) -> None:
    verifier = VoltageVerify(small_pki().tdx.root.certificate)
    found = verifier.collateral(services, PLATFORM.fmspc.hex())
    assert verifier.status(QUOTE, found) == "UpToDate"


def test_dcap_qvl_accepts_a_quote_of_version_5(collateral: Any) -> None:
    quote = quote_signer(small_pki(), TdxPlatform.of(["quote-version=5"]))(td_report())
    assert DCAP.status(quote, collateral) == "UpToDate"
    body = dcap_qvl.parse_quote(quote).report
    assert isinstance(body, dcap_qvl.TdReport15)
    assert (body.mr_td, body.tee_tcb_svn2) == (MRTD, bytes(PLATFORM.tee_tcb_svn))


@pytest.mark.parametrize("place", QUOTE_PLACES)
def test_no_verifier_accepts_a_changed_quote(place: str, collateral: Any) -> None:
    quote = flipped(QUOTE, QUOTE_PLACES[place])
    if place not in UNREAD_BY_DCAP_QVL:
        with pytest.raises(ValueError, match=r"."):
            DCAP.status(quote, collateral)
    with pytest.raises(ValueError, match=r"."):
        tdx.verify_signatures(tdx.parse_quote(quote), small_pki().tdx.root.certificate)


def test_vendors_root_refuses_a_quote(collateral: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        dcap_qvl.verify(QUOTE, collateral, 1_800_000_000)
    with pytest.raises(tdx.QuoteError, match="not the pinned Intel SGX Root CA"):
        tdx.verify_signatures(tdx.parse_quote(QUOTE), None)


def test_another_test_root_refuses_a_quote(collateral: Any) -> None:
    other = small_pki(Seed("other"))
    with pytest.raises(ValueError, match=r"."):
        DcapQvl(other.tdx.root.der).status(QUOTE, collateral)


def test_collateral_grows_old(collateral: Any) -> None:
    assert DCAP.status(QUOTE, collateral, later_s=29 * 86400) == "UpToDate"
    with pytest.raises(ValueError, match="xpired"):
        DCAP.status(QUOTE, collateral, later_s=31 * 86400)


@pytest.mark.parametrize(
    "options", [["pce-svn=10"], ["cpu-svn=3.4.2.2.2.1.0.4"], ["tee-tcb-svn=5.1.5"]], ids=str
)
def test_a_platform_below_the_newest_level_is_out_of_date(
    options: list[str], services: str
) -> None:
    quote = quote_signer(small_pki(), TdxPlatform.of(options))(td_report())
    assert DCAP.status(quote, DCAP.collateral(services, quote)) == "OutOfDate"


def test_a_platform_of_one_processor_has_its_own_authority(services: str) -> None:
    quote = quote_signer(small_pki(), TdxPlatform(ca="processor"))(td_report())
    assert DCAP.status(quote, DCAP.collateral(services, quote)) == "UpToDate"


def test_a_platform_of_another_model_has_its_own_documents(services: str, collateral: Any) -> None:
    quote = quote_signer(small_pki(), TdxPlatform.of(["fmspc=0123456789ab"]))(td_report())
    assert DCAP.status(quote, DCAP.collateral(services, quote)) == "UpToDate"
    with pytest.raises(ValueError, match=r"."):
        DCAP.status(quote, collateral)


def in_scenario(scenario: Scenario) -> str:
    with web_services(small_pki(), scenario, delay_s=0.2) as address:
        return DCAP.status(QUOTE, DCAP.collateral(address, QUOTE))


@pytest.mark.parametrize(
    ("scenario", "status"),
    [
        (Scenario.GOOD, "UpToDate"),
        (Scenario.SLOW, "UpToDate"),
        (Scenario.OUT_OF_DATE, "OutOfDate"),
        (Scenario.SW_HARDENING, "SWHardeningNeeded"),
        (Scenario.CONFIGURATION, "ConfigurationNeeded"),
    ],
)
def test_a_scenario_that_leaves_a_status(scenario: Scenario, status: str) -> None:
    assert in_scenario(scenario) == status


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        (Scenario.TCB_REVOKED, "Revoked"),
        (Scenario.REVOKED, "CertRevoked"),
        (Scenario.EXPIRED, "Expired"),
        (Scenario.TOO_MANY_REQUESTS, "429"),
        (Scenario.SERVER_ERROR, "500"),
    ],
)
def test_a_scenario_in_which_a_quote_is_refused(scenario: Scenario, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        in_scenario(scenario)


# --- SNP ---

SIGNED = SnpPlatform(product="genoa")
CHAIN = small_pki().snp["genoa"]


def snp_report(platform: SnpPlatform) -> bytes:
    signer = report_signer(small_pki(), platform)
    key = signer.key(ANY_KEY)
    assert key is not None
    return signed_report(SNP_LAUNCH, DATA, 0, signer.processor, key)


def vcek(services: str, platform: SnpPlatform) -> bytes:
    """Return what the key service has for a platform."""
    versions = platform.versions
    query = "&".join(
        f"{name}SPL={versions[field]}"
        for name, field in (("bl", "boot_loader"), ("tee", "tee"), ("snp", "snp"), ("ucode", "microcode"))
    )  # fmt: skip
    product, chip = platform.made.name, platform.chip.hex()
    return get(f"{services}/vcek/v1/{product}/{chip}?{query}")[0]


@pytest.mark.parametrize("product", ["milan", "genoa"])
def test_omne_attest_accepts_a_report(product: str, services: str) -> None:
    platform = SnpPlatform(product=product, microcode=200)
    found = OmneAttest(small_pki().snp[product]).report(
        snp_report(platform), vcek(services, platform), measurement=MEASUREMENT, report_data=DATA
    )
    assert found.version == platform.made.report_version
    assert found.reported_tcb.microcode == 200


@pytest.mark.parametrize("place", REPORT_PLACES)
def test_omne_attest_refuses_a_changed_report(place: str) -> None:
    report = flipped(snp_report(SIGNED), REPORT_PLACES[place])
    with pytest.raises(omne_attest.Fail):
        OmneAttest(CHAIN).report(report, small_pki().vcek(SIGNED).der)


def relied_on(scenario: Scenario) -> str:
    """Say what a relying party finds: omne-attest has no lists, so it reads the ARK's by itself."""
    with web_services(small_pki(), scenario, delay_s=0.2) as address:
        OmneAttest(CHAIN).report(snp_report(SIGNED), vcek(address, SIGNED))
        ask, ark = x509.load_pem_x509_certificates(get(f"{address}/vcek/v1/Genoa/cert_chain")[0])
        listed = x509.load_der_x509_crl(get(f"{address}/vcek/v1/Genoa/crl")[0])
    key = ark.public_key()
    assert isinstance(key, RSAPublicKey)
    assert listed.is_signature_valid(key)
    if listed.get_revoked_certificate_by_serial_number(ask.serial_number) is not None:
        return "ASK revoked"
    assert listed.next_update_utc is not None
    return "expired" if listed.next_update_utc < datetime.now(UTC) else "accepted"


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        (Scenario.GOOD, "accepted"),
        (Scenario.SLOW, "accepted"),
        (Scenario.REVOKED, "ASK revoked"),
        (Scenario.EXPIRED, "expired"),
    ],
)
def test_a_scenario_of_the_key_service(scenario: Scenario, said: str) -> None:
    assert relied_on(scenario) == said


@pytest.mark.parametrize("scenario", [Scenario.TOO_MANY_REQUESTS, Scenario.SERVER_ERROR])
def test_a_scenario_in_which_the_key_service_fails(scenario: Scenario) -> None:
    with pytest.raises(HTTPError, match=scenario):
        relied_on(scenario)


def test_old_firmware_is_below_the_floor_of_a_policy(services: str) -> None:
    """AMD's service has no status of a level: what is out of date is for the relying party to say."""
    old, floor = SnpPlatform.of(["snp=13"]), omne_attest.Tcb.from_u64_le(SIGNED.tcb)
    refused(lambda at: OmneAttest(CHAIN).report(snp_report(old), vcek(at, old), tcb_floor=floor),
            omne_attest.FailKind.TCB_BELOW_FLOOR, services)  # fmt: skip


def refused(change: Callable[[str], Any], kind: omne_attest.FailKind, services: str) -> None:
    with pytest.raises(omne_attest.Fail) as caught:
        change(services)
    assert caught.value.kind is kind


def test_vendors_root_refuses_a_report(services: str) -> None:
    amd = OmneAttest(CHAIN, omne_attest.vectors.ARK_SHA256)
    refused(lambda at: amd.report(snp_report(SIGNED), vcek(at, SIGNED)),
            omne_attest.FailKind.ARK_NOT_PINNED, services)  # fmt: skip


def test_a_certificate_of_another_chip_or_level_does_not_fit(services: str) -> None:
    verifier, report = OmneAttest(CHAIN), snp_report(SIGNED)
    for other in (SnpPlatform(chip_id=b"\1"), SnpPlatform(microcode=1)):
        refused(lambda at, other=other: verifier.report(report, vcek(at, other)),  # type: ignore[misc]
                omne_attest.FailKind.REPORT_SIGNATURE, services)  # fmt: skip


def test_a_foreign_chain_is_refused(services: str) -> None:
    other = OmneAttest(small_pki(Seed("other")).snp["genoa"])
    refused(lambda at: other.report(snp_report(SIGNED), vcek(at, SIGNED)),
            omne_attest.FailKind.CHAIN_SIGNATURE, services)  # fmt: skip


def test_the_digest_of_an_ark_is_what_the_verifier_pins() -> None:
    assert hashlib.sha256(CHAIN.ark.der).digest() != omne_attest.vectors.ARK_SHA256
