# SPDX-License-Identifier: GPL-2.0-or-later
"""Verifiers that are installed for these tests: one for Node, and one that has the vendors' roots pinned."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.attestation.snp_report import ANY_KEY, signed_report
from cvmlab.collateral.web_services import web_services
from cvmlab.pki.platforms import SnpPlatform, TdxPlatform
from tests.changed_evidence import QUOTE_PLACES, flipped
from tests.fakes.pkis import DATA, SNP_LAUNCH, small_pki, td_report
from tests.tools import installed
from tests.verifier_table import Verdict


HERE = Path(__file__).parent
PKI = small_pki()
QUOTE = quote_signer(PKI, TdxPlatform())(td_report())
NODE_VERSION, PINNED_VERSION = "0.3.9", "0.12.0"
INSTALL_S, RUN_S = 300, 120


def install(*command: str, folder: Path) -> None:
    """Run a package manager; skip the test if it cannot fetch."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=INSTALL_S,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"{command[0]} installed nothing: {done.stderr[-200:]}")


def ask(command: list[str], given: dict[str, Any], folder: Path, **environment: str) -> Any:
    """Return the JSON that a verifier's program prints."""
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(given), capture_output=True, text=True,
        timeout=RUN_S, env={**os.environ, "HOME": str(folder), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_dcap_qvl_for_node(tmp_path: Path) -> None:
    node, npm = installed.require("node", "nodejs"), installed.require("npm", "npm")
    package = f"@phala/dcap-qvl@{NODE_VERSION}"
    install(npm, "install", "--no-audit", "--no-fund", package, folder=tmp_path)
    quotes = [QUOTE, *(flipped(QUOTE, at) for at in QUOTE_PLACES.values())]
    with web_services(PKI) as address:
        given = {"services": address, "root": PKI.tdx.root.der.hex()}
        told = ask(
            [node, str(HERE / "verify_quotes.js")],
            {**given, "quotes": [quote.hex() for quote in quotes]},
            tmp_path,
            NODE_PATH=str(tmp_path / "node_modules"),
        )
    first, *changed = told["said"]
    Verdict(
        f"@phala/dcap-qvl {NODE_VERSION} (npm)", "TDX", "`newWithRootCa` (DER)",
        first == "UpToDate",
        [said.startswith("refused: ") for said in changed],
        told["vendor"].startswith("refused: "),
    ).require_in_document()  # fmt: skip


def snp_report() -> bytes:
    signer = report_signer(PKI, SnpPlatform())
    key = signer.key(ANY_KEY)
    assert key is not None
    return signed_report(SNP_LAUNCH, DATA, 0, signer.processor, key)


def test_a_verifier_with_pinned_roots_refuses_all_of_it(tmp_path: Path) -> None:
    """It fetches from our services what it would fetch from the vendors', and only the root is wrong."""
    install(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    python = str(tmp_path / "venv/bin/python")
    package = f"secretvm-verify=={PINNED_VERSION}"
    install(python, "-m", "pip", "install", "-q", package, folder=tmp_path)
    ark = PKI.snp["genoa"].ark.certificate.public_key()
    key = ark.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with web_services(PKI) as address:
        given = {"services": address, "quote": QUOTE.hex(), "report": snp_report().hex()}
        quote, report, told_of_the_root = ask(
            [python, str(HERE / "verify_pinned.py")],
            {**given, "key": hashlib.sha256(key).hexdigest()},
            tmp_path,
            PYTHONPATH="",
        )
    assert not quote["valid"]
    assert quote["checks"]["quote_parsed"]
    assert "InvalidCrlSignatureForPublicKey" in quote["errors"][0]
    wrong = [name for name, passed in report["checks"].items() if not passed]
    assert (report["valid"], wrong) == (False, ["cert_chain_valid"])
    assert told_of_the_root["valid"]
