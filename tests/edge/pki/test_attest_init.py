# SPDX-License-Identifier: GPL-2.0-or-later
"""``cvmlab attest init`` with keys as large as vendors' are, which take seconds to make."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from cvmlab.cli import main
from cvmlab.pki.pki_folder import load


ARK_OF_DEMO = "4b9b2729b427db1164d3d1bf5ce8e0464b9f1677411509277290864b55102120"


def test_a_seed_makes_a_pki_whose_roots_can_be_constants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "pki"
    assert main(["attest", "init", str(folder), "--seed", "demo"]) == 0
    told = capsys.readouterr().out
    assert main(["attest", "show", str(folder)]) == 0
    assert capsys.readouterr().out == told
    assert main(["attest", "show", str(folder), "--json"]) == 0
    roots = {root["der"]: root["sha256"] for root in json.loads(capsys.readouterr().out)["roots"]}
    assert roots[str(folder / "snp" / "genoa" / "ark.der")] == ARK_OF_DEMO
    for identity in (load(folder).snp["milan"].ark, load(folder).snp["milan"].ask):
        key = identity.certificate.public_key()
        assert isinstance(key, RSAPublicKey)
        assert key.key_size == 4096


def test_without_a_seed_each_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seed that was chosen is in the folder, and makes the same again."""
    assert main(["attest", "init", str(tmp_path / "pki")]) == 0
    seed = load(tmp_path / "pki").seed.text
    assert f"test PKI of seed {seed} " in capsys.readouterr().out
    assert len(seed) == 32
