# SPDX-License-Identifier: GPL-2.0-or-later
"""What the authorities issue: always the same from a seed, signed by its issuer, and in no doubt emulated."""

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import NameOID

from cvmlab.pki import der, pss
from cvmlab.pki.authorities import Pki
from cvmlab.pki.certificates import EMULATED, Identity
from cvmlab.pki.derived import Seed
from cvmlab.pki.pki_folder import places
from cvmlab.pki.platforms import SnpPlatform, TdxPlatform
from tests.fakes.pkis import SEED, small_keys, small_pki


AMD = "1.3.6.1.4.1.3704.1"
TDX = TdxPlatform(pce_svn=300)
MILAN = SnpPlatform(product="milan", boot_loader=3, tee=0, snp=8, microcode=209)
TURIN = SnpPlatform(product="turin", fmc=2, chip_id=bytes(range(8)), csp="a cloud")


def everything(pki: Pki) -> dict[str, Identity]:
    return {**dict(places(pki)), "pck": pki.pck(TDX), "pck of one": pki.pck(TdxPlatform(ca="processor")), "vcek": pki.vcek(MILAN),
            "vlek": pki.vlek(TURIN)}  # fmt: skip


ISSUERS = {
    "tdx/root": "tdx/root", "tdx/platform-ca": "tdx/root", "tdx/processor-ca": "tdx/root",
    "tdx/tcb-signing": "tdx/root", "pck": "tdx/platform-ca", "pck of one": "tdx/processor-ca", "vcek": "snp/milan/ask", "vlek": "snp/turin/asvk",
    "cca/root": "cca/root", "cca/cpak": "cca/root",
    **{f"snp/{word}/{name}": f"snp/{word}/ark"
       for word in ("milan", "genoa", "turin") for name in ("ark", "ask", "asvk")},
}  # fmt: skip


def test_a_seed_always_makes_the_same() -> None:
    again = Pki.of(SEED, small_keys())
    assert {name: made.der for name, made in everything(again).items()} == {
        name: made.der for name, made in everything(small_pki()).items()
    }


def test_the_root_of_a_seed_can_be_a_constant() -> None:
    digest = small_pki().tdx.root.certificate.fingerprint(SHA256()).hex()
    assert digest == "75b2973f45934bb09bf954cde3655673000bdc7ec4793d5a24f6e9b026d9910f"


def test_another_seed_makes_others() -> None:
    other = Pki.of(Seed("other"), small_keys())
    assert other.tdx.root.der != small_pki().tdx.root.der
    assert (
        other.vcek(MILAN).certificate.public_key()
        != small_pki().vcek(MILAN).certificate.public_key()
    )


@pytest.mark.parametrize("name", ISSUERS)
def test_each_certificate_is_signed_by_its_issuer(name: str) -> None:
    made = everything(small_pki())
    certificate, issuer = made[name].certificate, made[ISSUERS[name]].certificate
    certificate.verify_directly_issued_by(issuer)
    assert certificate.public_key() == made[name].key.public_key()


def test_no_certificate_is_left_out() -> None:
    assert set(everything(small_pki())) == set(ISSUERS)


@pytest.mark.parametrize("name", ISSUERS)
def test_each_name_says_that_it_is_emulated(name: str) -> None:
    certificate = everything(small_pki())[name].certificate
    for subject in (certificate.subject, certificate.issuer):
        (told,) = subject.get_attributes_for_oid(NameOID.DN_QUALIFIER)
        assert told.value == EMULATED


def test_a_pck_says_what_the_platform_is() -> None:
    pck = dcap_qvl.parse_pck_extension_from_pem(small_pki().pck(TDX).pem.encode())
    assert (pck.fmspc, pck.pce_id, pck.pce_svn) == (TDX.fmspc, TDX.pce_id, 300)
    assert pck.cpu_svn == bytes(TDX.cpu_svn)
    assert len(pck.ppid) == 16


def extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    """Return AMD's extensions by the end of their names."""
    return {
        extension.oid.dotted_string.removeprefix(f"{AMD}."): extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }


def test_a_vcek_names_the_chip_and_its_versions() -> None:
    found = extensions(small_pki().vcek(MILAN).certificate)
    assert found["4"] == MILAN.chip
    assert found["2"] == b"\x16\x08Milan-B0"
    assert {name: found[f"3.{name}"] for name in (1, 2, 3, 8)} == {
        1: b"\x02\x01\x03", 2: b"\x02\x01\x00", 3: b"\x02\x01\x08", 8: b"\x02\x02\x00\xd1",
    }  # fmt: skip
    assert "3.9" not in found
    assert MILAN.tcb == bytes([3, 0, 0, 0, 0, 0, 8, 209])


def test_a_turin_has_one_version_more_and_a_shorter_chip() -> None:
    found = extensions(small_pki().vcek(TURIN).certificate)
    assert found["4"] == bytes(range(8))
    assert found["3.9"] == b"\x02\x01\x02"
    assert TURIN.tcb == bytes(
        [2, TURIN.boot_loader, TURIN.tee, TURIN.snp, 0, 0, 0, TURIN.microcode]
    )


def test_a_vlek_names_a_cloud_provider_and_no_chip() -> None:
    found = extensions(small_pki().vlek(TURIN).certificate)
    assert found["5"] == b"\x16\x07a cloud"
    assert "4" not in found


@pytest.mark.parametrize("size", [0, 1, 500])
def test_our_rsa_signatures_are_what_the_library_accepts(size: int) -> None:
    key, message = small_keys().ark, bytes(size)
    signature = pss.sign(key, message)
    key.public_key().verify(signature, message, pss.PADDING, SHA384())
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, message + b"!", pss.PADDING, SHA384())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (der.integer(0), "020100"),
        (der.integer(127), "02017f"),
        (der.integer(128), "02020080"),
        (der.integer(65535), "020300ffff"),
        (der.octets(bytes(200)), "0481c8" + "00" * 200),
        (der.sequence(der.octets(bytes(300))), "30820130" + "0482012c" + "00" * 300),
        (der.enumerated(1), "0a0101"),
        (der.identifier("1.2.840.113741.1.13.1"), "060a2a864886f84d010d01".replace("060a", "0609")),
    ],
)
def test_der(made: bytes, expected: str) -> None:
    assert made.hex() == expected
