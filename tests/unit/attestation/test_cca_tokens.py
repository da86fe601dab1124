# SPDX-License-Identifier: GPL-2.0-or-later
"""CCA tokens: what they say, that an independent verifier accepts them, and nothing that was changed."""

import hashlib

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cvmlab.attestation.cca_token import RealmClaims, token
from cvmlab.attestation.service_frames import BadFrameError
from cvmlab.attestation.signed_tokens import token_signer
from cvmlab.pki.authorities import Pki
from cvmlab.pki.derived import Seed
from cvmlab.pki.platforms import CcaPlatform
from tests.cca_verifier import SignatureError, TokenError, verified
from tests.fakes.pkis import small_keys, small_pki


CHALLENGE, PERSONALIZATION = bytes(range(64)), b"P" * 64
WORDS = [bytes([number]) * 64 for number in range(1, 6)]


def request(algorithm: int = 0) -> bytes:
    """Return what the plugin asks: plugin/profiles/cca/token.h."""
    parts = (CHALLENGE, PERSONALIZATION, *WORDS)
    return b"cvmlcca1" + bytes([algorithm]) + bytes(7) + b"".join(parts)


def cpak() -> EllipticCurvePublicKey:
    return small_pki().cca.cpak.ec_key.public_key()


def signed(platform: CcaPlatform | None = None, *, wrong_key: bool = False) -> bytes:
    signer = token_signer(small_pki(), platform or CcaPlatform(), wrong_key=wrong_key)
    return token(RealmClaims.of(request()), signer)


@pytest.mark.parametrize(("algorithm", "name", "size"), [(0, "sha-256", 32), (1, "sha-512", 64)])
def test_a_realms_claims_are_those_of_the_request(algorithm: int, name: str, size: int) -> None:
    made = token(RealmClaims.of(request(algorithm)), token_signer(small_pki(), CcaPlatform()))
    realm = verified(made, cpak()).realm
    assert (realm[10], realm[44235], realm[44236]) == (CHALLENGE, PERSONALIZATION, name)
    assert [realm[44238], *realm[44239]] == [word[:size] for word in WORDS]


def test_a_platforms_claims_are_those_of_its_options() -> None:
    options = ["implementation-id=" + "ab" * 32, "lifecycle=7", "config=0102", "version=9"]
    platform = verified(signed(CcaPlatform.of(options)), cpak()).platform
    public = cpak().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert platform[256] == b"\x01" + hashlib.sha256(public).digest()
    assert (platform[2395], platform[2396], platform[2401]) == (7, b"\xab" * 32, b"\1\2")
    (component,) = platform[2399]
    assert "emulated" in component[1]
    assert component[4] == "9"


def test_the_same_request_gets_the_same_token() -> None:
    assert signed() == signed()


@pytest.mark.parametrize("place", range(40))
def test_a_changed_bit_is_refused(place: int) -> None:
    made = bytearray(signed())
    made[place * len(made) // 40] ^= 1 << place % 8
    with pytest.raises(TokenError):
        verified(bytes(made), cpak())


def signed_places() -> dict[str, tuple[bytes, bytes]]:
    """Return what is signed, or a signature, each with the part that it is in."""
    parts = cbor2.loads(signed()).value
    platform, realm = (cbor2.loads(parts[number]).value for number in (44234, 44241))
    return {
        "platform claims": (parts[44234], platform[2]),
        "platform signature": (parts[44234], platform[3]),
        "challenge": (parts[44241], CHALLENGE),
        "personalization": (parts[44241], PERSONALIZATION),
        "RIM": (parts[44241], WORDS[0][:32]),
        "realm signature": (parts[44241], realm[3]),
    }


@pytest.mark.parametrize("name", signed_places())
def test_a_change_of_what_is_signed_is_a_fault_of_the_signature(name: str) -> None:
    part, piece = signed_places()[name]
    made = signed()
    first = made.index(part) + part.index(piece)
    for place in range(first, first + len(piece), 5):
        changed = made[:place] + bytes([made[place] ^ 1 << place % 8]) + made[place + 1 :]
        with pytest.raises(SignatureError):
            verified(changed, cpak())


@pytest.mark.parametrize("bit", [5, 6, 7])
def test_another_type_of_an_item_is_refused(bit: int) -> None:
    """The first bits of an item say what it is; what the platform has signed is in another test."""
    made = signed()
    part, claims = signed_places()["platform claims"]
    first = made.index(part) + part.index(claims)
    for place in (*range(first), *range(first + len(claims), len(made))):
        changed = made[:place] + bytes([made[place] ^ 1 << bit]) + made[place + 1 :]
        with pytest.raises(TokenError):
            verified(changed, cpak())


def test_another_realm_key_is_one_that_the_platform_does_not_vouch_for() -> None:
    made = bytearray(signed())
    realm = cbor2.loads(cbor2.loads(cbor2.loads(signed()).value[44241]).value[2])
    made[made.index(realm[44237]) + len(realm[44237]) // 2] ^= 1
    with pytest.raises(TokenError, match="vouches for another realm key"):
        verified(bytes(made), cpak())


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made[: len(made) // 2],
        lambda made: made + b"\0",
        lambda made: b"",
        lambda made: cbor2.dumps(cbor2.CBORTag(399, {44234: b"", 44241: b""})),
    ],
    ids=["half", "longer", "nothing", "empty parts"],
)
def test_what_is_no_token_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(TokenError):
        verified(change(signed()), cpak())


def test_parts_of_two_platforms_do_not_fit() -> None:
    """The realm key of another PKI has another hash, though each part is signed well."""
    other = token_signer(Pki.of(Seed("other"), small_keys()), CcaPlatform())
    theirs = token(RealmClaims.of(request()), other)
    mine, foreign = cbor2.loads(signed()).value, cbor2.loads(theirs).value
    mixed = cbor2.dumps(cbor2.CBORTag(399, {44234: mine[44234], 44241: foreign[44241]}))
    with pytest.raises(TokenError, match="vouches for another realm key"):
        verified(mixed, cpak())


def test_a_key_that_is_not_the_platforms_is_refused() -> None:
    with pytest.raises(SignatureError):
        verified(signed(wrong_key=True), cpak())


def test_without_a_pki_each_key_and_each_signature_says_that_it_is_fake() -> None:
    made = token(RealmClaims.of(request()))
    parts = cbor2.loads(made).value
    for number in (44234, 44241):
        assert cbor2.loads(parts[number]).value[3] == b"FAKE" * 24
    realm = cbor2.loads(cbor2.loads(parts[44241]).value[2])
    assert cbor2.loads(realm[44237])[-2] == b"FAKE" * 12
    assert realm[10] == CHALLENGE
    with pytest.raises(TokenError):
        verified(made, cpak())


@pytest.mark.parametrize(
    "message",
    [b"", request()[:-1], request() + b"\0", b"cvmlcca2" + request()[8:], request(2)],
    ids=["empty", "short", "long", "other magic", "other hash"],
)
def test_what_is_no_request_is_refused(message: bytes) -> None:
    with pytest.raises(BadFrameError):
        RealmClaims.of(message)
