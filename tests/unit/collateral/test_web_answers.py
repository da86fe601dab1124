# SPDX-License-Identifier: GPL-2.0-or-later
"""What the PCCS and the KDS answer; verifiers read the answers in tests/edge/collateral."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography import x509

from cvmlab.collateral.scenarios import MEANINGS, Scenario
from cvmlab.collateral.web_services import respond
from cvmlab.pki.platforms import SnpPlatform
from tests.fakes.pkis import small_pki


PKI = small_pki()
TDX, SGX = "/tdx/certification/v4", "/sgx/certification/v4"
FMSPC = "00906ed50000"


def told(target: str, scenario: Scenario = Scenario.GOOD) -> bytes:
    found = respond(PKI, scenario, target)
    assert found.status == 200, found.content
    return found.content


@pytest.mark.parametrize(("base", "technology"), [(TDX, "TDX"), (SGX, "SGX")])
def test_tcb_info_is_of_a_technology_and_a_model(base: str, technology: str) -> None:
    info = json.loads(told(f"{base}/tcb?fmspc={FMSPC}"))["tcbInfo"]
    assert (info["id"], info["fmspc"].lower(), info["version"]) == (technology, FMSPC, 3)
    assert ("tdxModule" in info) == (technology == "TDX")


@pytest.mark.parametrize(("base", "enclave"), [(TDX, "TD_QE"), (SGX, "QE")])
def test_the_identity_of_a_quoting_enclave(base: str, enclave: str) -> None:
    assert json.loads(told(f"{base}/qe/identity"))["enclaveIdentity"]["id"] == enclave


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (f"{TDX}/tcb?fmspc={FMSPC}", "TCB-Info-Issuer-Chain"),
        (f"{TDX}/qe/identity", "SGX-Enclave-Identity-Issuer-Chain"),
        (f"{SGX}/pckcrl?ca=platform", "SGX-PCK-CRL-Issuer-Chain"),
        (f"{SGX}/pckcrl?ca=processor", "SGX-PCK-CRL-Issuer-Chain"),
    ],
)
def test_a_header_has_the_chain_to_the_root(target: str, header: str) -> None:
    chain = unquote(respond(PKI, Scenario.GOOD, target).headers[header])
    first, root = x509.load_pem_x509_certificates(chain.encode())
    first.verify_directly_issued_by(root)
    assert root == PKI.tdx.root.certificate


@pytest.mark.parametrize("scenario", [Scenario.GOOD, Scenario.REVOKED])
def test_lists_of_revoked_certificates(scenario: Scenario) -> None:
    root = x509.load_der_x509_crl(bytes.fromhex(told(f"{SGX}/rootcacrl", scenario).decode()))
    pck = x509.load_der_x509_crl(told(f"{SGX}/pckcrl?ca=platform&encoding=der", scenario))
    pem = x509.load_pem_x509_crl(told(f"{SGX}/pckcrl?ca=platform", scenario))
    amd, csp = (
        x509.load_der_x509_crl(told(f"/{key}/v1/Milan/crl", scenario)) for key in ("vcek", "vlek")
    )
    assert root.is_signature_valid(PKI.tdx.root.ec_key.public_key())
    assert pck.issuer == pem.issuer == PKI.tdx.platform_ca.certificate.subject
    assert amd.issuer == csp.issuer == PKI.snp["milan"].ark.certificate.subject
    assert list(pck) == []
    serials = [{entry.serial_number for entry in found} for found in (root, amd, csp)]
    expected = [
        {made.certificate.serial_number for made in (PKI.tdx.platform_ca, PKI.tdx.processor_ca)},
        {PKI.snp["milan"].ask.certificate.serial_number},
        {PKI.snp["milan"].asvk.certificate.serial_number},
    ]
    assert serials == (expected if scenario is Scenario.REVOKED else [set(), set(), set()])


def test_a_vcek_is_that_of_the_chip_at_the_level() -> None:
    for product, query in (("Milan", ""), ("Turin", "&fmcSPL=4")):
        platform = SnpPlatform(product=product.lower(), chip_id=b"\xab", boot_loader=1, tee=0,
                               snp=3, microcode=9, fmc=4)  # fmt: skip
        chip = platform.chip[: platform.made.chip_bytes].hex()
        target = f"/vcek/v1/{product}/{chip}?blSPL=1&snpSPL=3&ucodeSPL=9{query}"
        assert told(target) == PKI.vcek(platform).der


@pytest.mark.parametrize(("key", "issuer"), [("vcek", "ask"), ("vlek", "asvk")])
def test_the_chain_of_a_key(key: str, issuer: str) -> None:
    first, ark = x509.load_pem_x509_certificates(told(f"/{key}/v1/Genoa/cert_chain"))
    assert first == getattr(PKI.snp["genoa"], issuer).certificate
    assert ark == PKI.snp["genoa"].ark.certificate


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("/", 404, "paths begin with /sgx, /tdx, /vcek, /vlek"),
        ("/sgx", 404, "only version 4 is served"),
        ("/tdx/certification/v3/tcb", 404, "only version 4 is served"),
        (f"{TDX}/pckcrl?ca=platform", 404, "there is no tdx/certification/v4/pckcrl"),
        (f"{SGX}/what", 404, "there is no"),
        (f"{SGX}/pckcrl?ca=root", 400, "ca must be platform or processor"),
        (f"{TDX}/tcb", 400, "12 hexadecimal digits"),
        (f"{TDX}/tcb?fmspc=xyz", 400, "12 hexadecimal digits"),
        ("/vcek/v1/Rome/00", 404, "products are Milan, Genoa, Turin"),
        ("/vcek/v1/Milan", 404, "paths are /vcek/v1/PRODUCT/"),
        ("/vcek/v1/Milan/xyz", 400, "hexadecimal digits"),
        ("/vcek/v1/Milan/00?blSPL=x", 400, "it must be a number up to 255"),
        ("/vlek/v1/Milan/00", 401, "for its cloud provider alone"),
    ],
)
def test_what_there_is_not_is_said(target: str, status: int, sentence: str) -> None:
    found = respond(PKI, Scenario.GOOD, target)
    assert found.status == status
    assert sentence in found.content.decode()


@pytest.mark.parametrize(
    ("scenario", "status"), [(Scenario.TOO_MANY_REQUESTS, 429), (Scenario.SERVER_ERROR, 500)]
)
def test_a_service_that_fails_fails_everywhere(scenario: Scenario, status: int) -> None:
    for target in ("/", f"{SGX}/rootcacrl", "/vcek/v1/Milan/crl"):
        assert respond(PKI, scenario, target).status == status


def test_each_scenario_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Scenario)


def test_the_document_has_each_scenario() -> None:
    text = (Path(__file__).parents[3] / "docs" / "attestation.md").read_text()
    shown = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", text, re.MULTILINE))
    assert {word: shown.get(word) for word in Scenario} == dict(MEANINGS)
