# SPDX-License-Identifier: GPL-2.0-or-later
"""A quote generation service for emulated TDs.

It answers on a Unix socket in the protocol of Intel's service (qgs_msg_lib.h of
SGXDataCenterAttestationPrimitives): a length in four bytes, big-endian, then the message.  What
makes the quotes is given: fake_quote() below, or a signer of signed_quotes.py.
"""

import asyncio
import struct
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from cvmlab.attestation.quote_faults import QuoteFault
from cvmlab.attestation.quote_format import QeCertification, QuoteError, quote
from cvmlab.attestation.service_frames import pause, read_frame, serve, write_frame


GET_QUOTE_REQUEST: Final = 0
GET_QUOTE_RESPONSE: Final = 1
ERROR_INVALID_PARAMETER: Final = 0x12000002

_HEADER = struct.Struct("<HHIII")  # major, minor, type, size, error
_SIZES = struct.Struct("<II")
_USER_DATA = b"cvmlab: fake quote"
_PEM = b"-----BEGIN CERTIFICATE-----\nRkFLRSBieSBjdm1sYWI=\n-----END CERTIFICATE-----\n\0"

# Makes a quote of a TDREPORT_STRUCT; raises QuoteError if it is none.
QuoteMaker = Callable[[bytes], bytes]


def _fake(size: int) -> bytes:
    return (b"FAKE" * (size // 4 + 1))[:size]


def fake_quote(report: bytes) -> bytes:
    """Return a quote that proves nothing: each signature, key and certificate in it says FAKE."""
    return quote(
        report,
        user_data=_USER_DATA,
        sign=lambda _content: _fake(64),
        key=_fake(64),
        certification=QeCertification(_fake(384), _fake(64), _fake(32), _PEM),
    )


def answer(message: bytes, make: QuoteMaker = fake_quote, fault: QuoteFault | None = None) -> bytes:
    """Return the response to a request, both without the length in front."""
    made, error = b"", 0 if fault is None else fault.status or 0
    try:
        made = b"" if error else make(_report_of(message))
    except QuoteError:
        error = ERROR_INVALID_PARAMETER
    size = _HEADER.size + _SIZES.size + len(made)
    header = _HEADER.pack(1, 0, GET_QUOTE_RESPONSE, size, error)
    return header + _SIZES.pack(0, len(made)) + made


def _report_of(message: bytes) -> bytes:
    if len(message) < _HEADER.size + _SIZES.size:
        raise QuoteError("the request is cut short")
    _major, _minor, kind, size, _error = _HEADER.unpack_from(message)
    report_size, _ids = _SIZES.unpack_from(message, _HEADER.size)
    if kind != GET_QUOTE_REQUEST or size != len(message):
        raise QuoteError("this is not a request for a quote")
    start = _HEADER.size + _SIZES.size
    return message[start : start + report_size]


def quote_service(
    path: Path, make: QuoteMaker | None = None, fault: QuoteFault | None = None
) -> AbstractAsyncContextManager[Path]:
    """Serve on the Unix socket *path* while the block runs; its end closes all connections."""
    honest = make or fake_quote
    alter = bytes if fault is None else fault.altering()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await read_frame(reader)
        if fault is not None:
            await pause(fault.delay_s)
        await write_frame(writer, answer(message, lambda report: alter(honest(report)), fault))

    return serve(path, attend)
