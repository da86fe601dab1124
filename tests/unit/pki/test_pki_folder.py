# SPDX-License-Identifier: GPL-2.0-or-later
"""A PKI as a folder, and what is wrong with one that cannot sign."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from cvmlab.base.errors import ConfigError
from cvmlab.pki.pki_folder import load, places, require_new, save
from tests.fakes.pkis import small_pki


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(small_pki(), tmp_path / "pki")
    return tmp_path / "pki"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    found = load(folder)
    assert found.seed == small_pki().seed
    assert [(place, made.der) for place, made in places(found)] == [
        (place, made.der) for place, made in places(small_pki())
    ]
    assert (folder / "tdx" / "root.der").read_bytes() == found.tdx.root.der


def expired(folder: Path) -> None:
    root = small_pki().tdx.root
    old = (
        x509.CertificateBuilder()
        .subject_name(root.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(root.ec_key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 2, 1, tzinfo=UTC))
        .sign(root.ec_key, SHA256())
    )
    (folder / "tdx" / "root.pem").write_bytes(old.public_bytes(Encoding.PEM))


def locked(folder: Path) -> None:
    key = small_pki().tdx.root.key
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "tdx" / "root.key").write_bytes(text)


def about(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "pki.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "has no test PKI"),
        (lambda folder: (folder / "pki.json").unlink(), "has no test PKI"),
        (lambda folder: (folder / "pki.json").write_text("[]"), "does not describe a test PKI"),
        (lambda folder: (folder / "pki.json").write_text("{"), "does not describe a test PKI"),
        (about(version=1), "is of version 1, not 2"),
        (about(seed=None), "has a seed that is no text"),
        (lambda folder: (folder / "tdx" / "root.pem").write_text("x"), "root.pem is not a certificate"),
        (lambda folder: (folder / "tdx" / "root.pem").unlink(), "root.pem cannot be read: No such file"),
        (lambda folder: (folder / "tdx" / "root.key").write_text("x"), "root.key is not a private key"),
        (
            lambda folder: shutil.copy(folder / "tdx" / "platform-ca.key", folder / "tdx" / "root.key"),
            "root.key is not the key of .*root.pem",
        ),
        (
            lambda folder: (folder / "snp" / "milan" / "ark.key").unlink(),
            "ark.key cannot be read: No such file",
        ),
        (locked, "root.key is not a private key without a password"),
        (expired, "root.pem expired at 2020-02-01 00:00"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_sign_is_refused(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder)
    assert "cvmlab attest init" in (caught.value.hint or "")


def test_a_folder_with_files_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    require_new(tmp_path / "new")
    with pytest.raises(ConfigError, match="not an empty folder"):
        require_new(folder)
    with pytest.raises(ConfigError, match="not an empty folder"):
        require_new(folder / "pki.json")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        save(small_pki(), tmp_path / "file")
