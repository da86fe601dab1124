# SPDX-License-Identifier: GPL-2.0-or-later
"""ID blocks: what is signed, beside sev-snp-measure's; tests/qemu launches guests with them."""

import base64
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sevsnpmeasure.id_block import snp_calc_id_block

from cvmlab.attestation.id_blocks import IdBlock, SignedBlock, key_digest, require_signed
from cvmlab.base.errors import ConfigError
from cvmlab.machine.spec import BootSpec
from cvmlab.pki.derived import Seed


SEED = Seed("id blocks")
KEY, AUTHOR, OTHER = (SEED.ec_key(name, SECP384R1()) for name in ("id", "author", "other"))
BLOCK = IdBlock(digest=bytes(range(48)), policy=0x30000)
SIGNED = SignedBlock.made(BLOCK, KEY, AUTHOR)


def pem(key: EllipticCurvePrivateKey, path: Path) -> str:
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return str(path)


def test_sev_snp_measure_makes_the_same(tmp_path: Path) -> None:
    """But for the signatures, which have a random number in them: ours must verify theirs."""
    told = snp_calc_id_block(
        BLOCK.digest, pem(KEY, tmp_path / "id"), pem(AUTHOR, tmp_path / "author")
    )
    texts = re.findall(r"(?:id-block|id-auth|id_key_hash|author_key)[=:] ?([A-Za-z0-9+/=]+)", told)
    block, auth, id_digest, author_digest = (base64.b64decode(text) for text in texts)
    assert block == SIGNED.block
    for first, end in ((0, 0x40), (0x240, 0x680), (0x880, 0x1000)):
        assert auth[first:end] == SIGNED.auth[first:end]
    assert (id_digest, author_digest) == (key_digest(KEY), key_digest(AUTHOR))
    SignedBlock(block, auth, has_author=True).verify()


@pytest.mark.parametrize("author", [None, AUTHOR])
def test_what_was_made_is_signed(author: EllipticCurvePrivateKey | None) -> None:
    signed = SignedBlock.made(BLOCK, KEY, author)
    require_signed(signed.options)
    assert ("author-key-enabled=on" in signed.options) is (author is not None)


@pytest.mark.parametrize("at", [0, 48, 84, 88])
def test_a_block_that_was_changed_is_not_signed(at: int) -> None:
    changed = bytearray(SIGNED.block)
    changed[at] ^= 1
    with pytest.raises(ConfigError, match="the ID key has not signed it"):
        SignedBlock(bytes(changed), SIGNED.auth, has_author=True).verify()


def test_an_id_key_of_another_author_is_not_signed() -> None:
    theirs = SignedBlock.made(BLOCK, KEY, OTHER)
    auth = theirs.auth[:0x880] + SIGNED.auth[0x880:]
    with pytest.raises(ConfigError, match="the author key has not signed it"):
        SignedBlock(SIGNED.block, auth, has_author=True).verify()
    SignedBlock(SIGNED.block, auth, has_author=False).verify()


@pytest.mark.parametrize("word", ["on", "yes", "true", "y"])
def test_each_word_of_qemu_has_the_author_checked(word: str) -> None:
    options = SignedBlock.made(BLOCK, KEY).options  # no author has signed its key
    require_signed((*options, "author-key-enabled=n"))
    with pytest.raises(ConfigError, match="the author key has not signed it"):
        require_signed((*options, f"author-key-enabled={word}"))


def test_a_key_that_is_none_has_signed_nothing() -> None:
    auth = SIGNED.auth[:0x244] + b"\xff" * 144 + SIGNED.auth[0x244 + 144 :]
    with pytest.raises(ConfigError, match="the ID key has not signed it"):
        SignedBlock(SIGNED.block, auth, has_author=False).verify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SIGNED.options[:1], "needs --coco-option id-auth=BASE64"),
        (SIGNED.options[1:], "needs --coco-option id-block=BASE64"),
        (("author-key-enabled=on",), "needs --coco-option id-block=BASE64"),
        (("id-block=AAAA", SIGNED.options[1]), "id-block is not 96 bytes in base64"),
        (("id-block=\xe4", SIGNED.options[1]), "id-block is not 96 bytes in base64"),
        (("id-block=*", SIGNED.options[1]), "id-block is not 96 bytes in base64"),
        (SignedBlock(SIGNED.block, bytes(4096), has_author=False).options, "has not signed it"),
    ],
)
def test_a_boot_with_half_a_block_is_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BootSpec(coco="sev-snp", guest_options=options).validate()
