# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed SNP reports, asked for as a guest does; omne-attest reads them in tests/edge/collateral."""

import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from cvmlab.attestation.services import attestation_service
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.attestation.snp_firmware import SnpGuest
from cvmlab.attestation.snp_report import Launch
from cvmlab.base.errors import ConfigError
from cvmlab.pki.certificates import Identity
from cvmlab.pki.platforms import PRODUCTS, SnpPlatform
from tests.fakes.pkis import DATA, small_pki
from tests.fakes.snp_guest import (
    INVALID_KEY,
    INVALID_PARAM,
    KEY_REQUEST,
    KEYS,
    SUCCESS,
    key_request,
    opened,
    report_request,
    sealed,
)


PKI = small_pki()
PROVIDED = SnpPlatform(csp="a cloud")
LAUNCH = Launch(
    policy=0x30000, vmpck=KEYS, measurement=b"M" * 48, host_data=bytes(32), family_id=bytes(16),
    image_id=bytes(16), guest_svn=0, has_author_key=True, id_key_digest=b"k" * 48,
    author_key_digest=b"a" * 48, report_id=b"R" * 32,
)  # fmt: skip


def report(platform: SnpPlatform, selection: int = 0) -> tuple[int, bytes]:
    guest = SnpGuest(LAUNCH, report_signer(PKI, platform))
    _, page = guest.answer(sealed(report_request(DATA, selection=selection)))
    _, _, payload = opened(page, 0)
    return struct.unpack_from("<I", payload)[0], payload[32:]


def verify(made: bytes, signer: Identity) -> None:
    """Verify as the firmware specification says; raises InvalidSignature."""
    r, s = (int.from_bytes(made[at : at + 72], "little") for at in (0x2A0, 0x2E8))
    key = signer.certificate.public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), made[:0x2A0], ECDSA(SHA384()))


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_report_is_that_of_its_product(product: str) -> None:
    platform = SnpPlatform(product=product)
    status, made = report(platform)
    assert status == SUCCESS
    verify(made, PKI.vcek(platform))
    assert struct.unpack_from("<I", made)[0] == platform.made.report_version
    for at in (0x38, 0x180, 0x1E0, 0x1F0):
        assert made[at : at + 8] == platform.tcb
    assert made[0x1A0:0x1E0] == platform.chip
    cpuid = bytes(platform.made.cpuid) if product != "milan" else bytes(3)
    assert made[0x188:0x18B] == cpuid
    assert made[0x48] == 1, "an author key, and the VCEK"


@pytest.mark.parametrize(
    ("platform", "selection", "signer"),
    [
        (PROVIDED, 0, PKI.vlek(PROVIDED)),
        (PROVIDED, 1, PKI.vcek(PROVIDED)),
        (PROVIDED, 2, PKI.vlek(PROVIDED)),
        (SnpPlatform(), 1, PKI.vcek(SnpPlatform())),
    ],
)
def test_a_guest_selects_who_signs(platform: SnpPlatform, selection: int, signer: Identity) -> None:
    status, made = report(platform, selection)
    assert status == SUCCESS
    verify(made, signer)
    assert made[0x48] >> 2 & 7 == (signer.certificate == PKI.vlek(PROVIDED).certificate)


def test_a_chip_without_a_provider_has_no_vlek() -> None:
    assert report(SnpPlatform(), 2) == (INVALID_KEY, bytes(0x4A0))


def derived(platform: SnpPlatform, tcb: int = 0) -> tuple[int, bytes]:
    guest = SnpGuest(LAUNCH, report_signer(PKI, platform))
    _, page = guest.answer(sealed(key_request(fields=0x20, tcb=tcb), kind=KEY_REQUEST))
    _, _, payload = opened(page, 0)
    return struct.unpack_from("<I", payload)[0], payload[32:]


def test_derived_keys_are_those_of_a_chip() -> None:
    assert derived(SnpPlatform()) == derived(SnpPlatform())
    assert derived(SnpPlatform()) != derived(SnpPlatform(chip_id=b"other"))


def test_a_derived_key_cannot_be_of_a_newer_level() -> None:
    tcb = int.from_bytes(SnpPlatform(microcode=1).tcb, "little")
    assert derived(SnpPlatform(), tcb)[0] == SUCCESS
    assert derived(SnpPlatform(boot_loader=0), tcb) == (INVALID_PARAM, bytes(32))


def test_a_service_that_cannot_sign_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no test PKI"):
        attestation_service("snp-requests", tmp_path / "s", tmp_path, ())
