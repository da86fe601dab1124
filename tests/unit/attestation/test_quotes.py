# SPDX-License-Identifier: GPL-2.0-or-later
"""Fake quotes: every field is where a verifier looks for it."""

import asyncio
import struct
from pathlib import Path

import pytest

from cvmlab.attestation.quote_format import QeCertification, QuoteError, quote
from cvmlab.attestation.quotes import answer, fake_quote, quote_service


def numbered(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


REPORT = b"\x81\0\0\0" + numbered(1020)


def request(report: bytes, *, size: int | None = None, kind: int = 0) -> bytes:
    length = 24 + len(report) if size is None else size
    return struct.pack("<HHIIIII", 1, 0, kind, length, 0, len(report), 0) + report


def test_fields_are_where_a_verifier_looks() -> None:
    quote = fake_quote(REPORT)
    assert struct.unpack_from("<HHI", quote) == (4, 2, 0x81)
    body = quote[48 : 48 + 584]
    assert body[0:16] == REPORT[264:280]
    assert body[120:136] == REPORT[512:528]
    assert body[136:184] == REPORT[528:576]
    assert body[328:520] == REPORT[720:912]
    assert body[520:584] == REPORT[128:192]
    (signature_size,) = struct.unpack_from("<I", quote, 632)
    assert 636 + signature_size == len(quote)
    kind, size = struct.unpack_from("<HI", quote, 636 + 128)
    assert (kind, 636 + 134 + size) == (6, len(quote))
    assert b"FAKE" * 16 in quote


def test_version_5_has_the_type_and_the_size_of_a_longer_body() -> None:
    whole = quote(
        REPORT, user_data=b"", sign=lambda _content: bytes(64), key=bytes(64), version=5,
        certification=QeCertification(bytes(384), bytes(64), b"", b""),
    )  # fmt: skip
    assert struct.unpack_from("<HHI", whole) == (5, 2, 0x81)
    assert struct.unpack_from("<HI", whole, 48) == (3, 648)
    body = whole[54 : 54 + 648]
    assert body[:584] == fake_quote(REPORT)[48 : 48 + 584]
    assert body[584:600] == REPORT[256 + 128 : 256 + 144]
    assert body[600:648] == REPORT[512 + 400 : 512 + 448]
    (signature_size,) = struct.unpack_from("<I", whole, 54 + 648)
    assert 54 + 648 + 4 + signature_size == len(whole)


@pytest.mark.parametrize("report", [b"", REPORT[:-1], b"\0" + REPORT[1:]])
def test_what_is_no_report_gets_no_quote(report: bytes) -> None:
    with pytest.raises(QuoteError, match="not a TDX report"):
        fake_quote(report)


@pytest.mark.parametrize(
    "message", [b"", b"short", request(REPORT, size=7), request(REPORT, kind=3), request(b"x")]
)
def test_a_request_that_is_none_is_answered_with_an_error(message: bytes) -> None:
    response = answer(message)
    major, _minor, kind, size, error, _ids, quote_size = struct.unpack("<HHIIIII", response)
    assert (major, kind, size, quote_size) == (1, 1, len(response), 0)
    assert error


async def test_the_service_answers_on_its_socket(tmp_path: Path) -> None:
    async with quote_service(tmp_path / "quotes.sock") as path:
        reader, writer = await asyncio.open_unix_connection(path)
        message = request(REPORT)
        writer.write(len(message).to_bytes(4, "big") + message)
        size = int.from_bytes(await reader.readexactly(4), "big")
        response = await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()
    assert response[24:] == fake_quote(REPORT)


async def test_a_client_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    async with quote_service(tmp_path / "quotes.sock") as path:
        _reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"\0\0")
        writer.close()
        await writer.wait_closed()
        _reader, writer = await asyncio.open_unix_connection(path)
        writer.close()
        await writer.wait_closed()
