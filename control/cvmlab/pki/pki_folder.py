# SPDX-License-Identifier: GPL-2.0-or-later
"""A test PKI as a folder: certificates as PEM and DER, keys as PEM, and the seed.

The keys are no secrets: whoever trusts this root trusts an emulator.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cvmlab.base.errors import ConfigError
from cvmlab.pki.amd_chain import AmdChain
from cvmlab.pki.authorities import Pki
from cvmlab.pki.cca_chain import CcaChain
from cvmlab.pki.certificates import EMULATED, Identity
from cvmlab.pki.derived import Seed
from cvmlab.pki.intel_chain import IntelChain
from cvmlab.pki.platforms import PRODUCTS
from cvmlab.pki.web_identity import web_identity


VERSION: Final = 2  # 1 had nothing for CCA
_ABOUT: Final = "pki.json"
_AGAIN: Final = "make it again with `cvmlab attest init`"
_TDX: Final = {
    "root": "tdx/root",
    "platform_ca": "tdx/platform-ca",
    "processor_ca": "tdx/processor-ca",
    "tcb_signing": "tdx/tcb-signing",
}
_CCA: Final = {"root": "cca/root", "cpak": "cca/cpak"}
_SNP: Final = ("ark", "ask", "asvk")


def require_new(folder: Path) -> None:
    """Raise ConfigError unless a PKI can be written to *folder*."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder", hint="give a new folder")


def save(pki: Pki, folder: Path) -> None:
    """Write *pki* to *folder*; raise ConfigError if it cannot be written."""
    try:
        for place, identity in places(pki):
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".pem").write_text(identity.pem)
            path.with_suffix(".der").write_bytes(identity.der)
            path.with_suffix(".key").write_bytes(key_text(identity))
        about = {"about": EMULATED, "version": VERSION, "seed": pki.seed.text}
        (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from error


def save_web_certificate(pki: Pki, folder: Path) -> Path:
    """Write the certificate that clients of ``attest serve --https`` are to trust."""
    path = folder / "web.pem"
    try:
        path.write_text(web_identity(pki.seed).pem)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return path


def load(folder: Path) -> Pki:
    """Return the PKI in *folder*; raise ConfigError for one that cannot sign."""
    seed = Seed(_seed(folder))
    tdx = IntelChain(**{name: _identity(folder / place) for name, place in _TDX.items()})
    snp = {word: AmdChain(*(_identity(folder / "snp" / word / name) for name in _SNP))
           for word in PRODUCTS}  # fmt: skip
    cca = CcaChain(**{name: _identity(folder / place) for name, place in _CCA.items()})
    return Pki(seed, tdx, snp, cca)


def places(pki: Pki) -> Iterator[tuple[str, Identity]]:
    """Yield each authority with its place in the folder, without a suffix."""
    for name, place in _TDX.items():
        yield place, getattr(pki.tdx, name)
    for word, chain in pki.snp.items():
        for name in _SNP:
            yield f"snp/{word}/{name}", getattr(chain, name)
    for name, place in _CCA.items():
        yield place, getattr(pki.cca, name)


def key_text(identity: Identity) -> bytes:
    """Return the private key as PEM, without a password."""
    return identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_AGAIN) from error


def _seed(folder: Path) -> str:
    path = folder / _ABOUT
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no test PKI", hint=f"`cvmlab attest init {folder}` makes one"
        )
    try:
        about: Any = json.loads(_read(path))
        version, seed = about["version"], about["seed"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{path} does not describe a test PKI", hint=_AGAIN) from error
    if version != VERSION:
        raise ConfigError(f"{path} is of version {version}, not {VERSION}", hint=_AGAIN)
    if not isinstance(seed, str):
        raise ConfigError(f"{path} has a seed that is no text", hint=_AGAIN)
    return seed


def _identity(path: Path) -> Identity:
    certificate_path, key_path = path.with_suffix(".pem"), path.with_suffix(".key")
    try:
        certificate = x509.load_pem_x509_certificate(_read(certificate_path))
    except ValueError as error:
        raise ConfigError(f"{certificate_path} is not a certificate", hint=_AGAIN) from error
    try:
        key = load_pem_private_key(_read(key_path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{key_path} is not a private key without a password", hint=_AGAIN
        ) from error
    if not isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise ConfigError(f"{key_path} is not the key of {certificate_path}", hint=_AGAIN)
    if datetime.now(UTC) > certificate.not_valid_after_utc:
        raise ConfigError(
            f"{certificate_path} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M}",
            hint=_AGAIN,
        )
    return Identity(certificate, key)
