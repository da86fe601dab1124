# SPDX-License-Identifier: GPL-2.0-or-later
"""Google's verifiers in Go, from Debian unstable, with Debian's Go: built without a network.

Debian's packages have no vendors' roots, which these programs build in; those of another test PKI
stand in for them.
"""

import base64
import json
import os
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cvmlab.attestation.certificate_table import certificate_table
from cvmlab.base.errors import CvmError
from cvmlab.collateral.scenarios import Scenario
from cvmlab.collateral.web_services import web_services
from cvmlab.debian import packages
from cvmlab.pki.derived import Seed
from cvmlab.pki.platforms import SnpPlatform
from tests.changed_evidence import QUOTE_PLACES, REPORT_PLACES, flipped
from tests.fakes.pkis import small_pki
from tests.tools.test_other_verifiers import PKI, QUOTE, snp_report
from tests.verifier_table import Verdict


SOURCE = Path(__file__).with_name("verify_evidence.go")
GO = "1.26"
PACKAGES = (
    f"golang-{GO}-go", f"golang-{GO}-src", "golang-github-google-go-sev-guest-dev",
    "golang-github-google-go-tdx-guest-dev", "golang-github-google-go-configfs-tsm-dev",
    "golang-github-google-go-eventlog-dev", "golang-github-google-go-tpm-dev",
    "golang-github-google-go-cmp-dev", "golang-github-google-logger-dev",
    "golang-github-google-uuid-dev", "golang-go.uber-multierr-dev", "golang-golang-x-crypto-dev",
    "golang-golang-x-sys-dev", "golang-google-protobuf-dev",
)  # fmt: skip
AMD_ROOTS = {
    "milan": ("ask_ark_milan.pem", "ask_ark_milan_vlek.pem"),
    "genoa": ("ask_ark_genoa.pem", "ask_ark_genoa_vlek.pem"),
    "turin": ("ask_ark_turin_vcek.pem", "ask_ark_turin_vlek.pem"),
}
BUILD_S, RUN_S = 600, 60

pytestmark = pytest.mark.timeout(900)


def unpacked() -> Path:
    try:
        return packages.unpack(*(packages.fetch(name, "sid") for name in PACKAGES))
    except CvmError as error:
        pytest.skip(f"Debian unstable cannot be reached: {error}")


def overlay(source: Path, folder: Path) -> Path:
    """Write the roots that are built in to *folder*, and the map by which Go finds them."""
    other = small_pki(Seed("other"))
    sev, tdx = source / "go-sev-guest/verify/trust", source / "go-tdx-guest/verify"
    content = {tdx / "trusted_root.pem": other.tdx.root.pem}
    for product, names in AMD_ROOTS.items():
        chain = other.snp[product]
        for name, issuer in zip(names, (chain.ask, chain.asvk), strict=True):
            content[sev / name] = issuer.pem + chain.ark.pem
    for path, text in content.items():
        (folder / path.name).write_text(text)
    path = folder / "overlay.json"
    path.write_text(
        json.dumps({"Replace": {str(path): str(folder / path.name) for path in content}})
    )
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program that asks both, built."""
    root, folder = unpacked(), tmp_path_factory.mktemp("go")
    path = root / "usr/share/gocode"
    environment = {
        "GOROOT": str(root / f"usr/lib/go-{GO}"), "GOPATH": str(path), "GO111MODULE": "off",
        "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOCACHE": str(folder / "cache"),
    }  # fmt: skip
    roots = overlay(path / "src/github.com/google", folder)
    done = subprocess.run(
        [f"{environment['GOROOT']}/bin/go", "build", "-overlay", str(roots), "-o",
         str(folder / "verify"), str(SOURCE)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=BUILD_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "verify"


def encoded(evidence: bytes, places: Iterable[int]) -> list[str]:
    """Return good evidence, and what it is with a bit changed at each place."""
    return [
        base64.b64encode(one).decode()
        for one in (evidence, *(flipped(evidence, at) for at in places))
    ]


# What go-sev-guest says of a report by the list of revoked certificates; it does not look at its date.
SAID = {
    Scenario.GOOD: "",
    Scenario.SLOW: "",
    Scenario.REVOKED: "ASK was revoked",
    Scenario.TOO_MANY_REQUESTS: "could not fetch product CRL",
    Scenario.SERVER_ERROR: "could not fetch product CRL",
}


@pytest.fixture(scope="module")
def told(program: Path) -> Any:
    with ExitStack() as serving:
        services = {
            word: serving.enter_context(web_services(PKI, word, delay_s=0.2)) for word in SAID
        }
        return said(program, services)


def said(program: Path, services: dict[Scenario, str]) -> Any:
    chain = PKI.snp["genoa"]
    given = {
        "reports": encoded(snp_report(), REPORT_PLACES.values()),
        "quotes": encoded(QUOTE, QUOTE_PLACES.values()),
        "certificates": base64.b64encode(certificate_table(PKI, SnpPlatform())).decode(),
        "snpRoot": chain.ask.pem + chain.ark.pem,
        "tdxRoot": PKI.tdx.root.pem,
        "services": services,
    }
    done = subprocess.run(
        [str(program)], input=json.dumps(given), capture_output=True, text=True, timeout=RUN_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # their logger writes there, too


@pytest.mark.parametrize(
    ("name", "of", "root", "word", "built_in"),
    [
        ("go-sev-guest 0.15 (Debian)", "SEV-SNP, Genoa", "`TrustedRoots`", "reports", "builtInReport"),
        ("go-tdx-guest 0.3 (Debian)", "TDX", "`TrustedRoots`", "quotes", "builtInQuote"),
    ],
)  # fmt: skip
def test_a_verifier_in_go(
    name: str, of: str, root: str, word: str, built_in: str, told: Any
) -> None:
    first, *changed = told[word]
    assert "unknown authority" in told[built_in]
    Verdict(name, of, root, first == "", list(map(bool, changed)), True).require_in_document()


@pytest.mark.parametrize("scenario", SAID)
def test_a_scenario_of_the_key_service(scenario: Scenario, told: Any) -> None:
    found = told["listed"][scenario]
    assert SAID[scenario] in found
    assert (found == "") is (SAID[scenario] == "")
