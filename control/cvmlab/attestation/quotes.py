# SPDX-License-Identifier: GPL-2.0-or-later
"""A quote generation service for emulated TDs: well-formed quotes that prove nothing.

It answers on a Unix socket in the protocol of Intel's service (qgs_msg_lib.h of
SGXDataCenterAttestationPrimitives): a length in four bytes, big-endian, then the message.  The
quote is version 4 of "Intel TDX DCAP Quoting Library API", appendix 3; each signature, key and
certificate in it says FAKE.
"""

import asyncio
import struct
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from cvmlab.attestation.service_frames import read_frame, serve, write_frame
from cvmlab.base.errors import CvmError


REPORT_BYTES: Final = 1024
GET_QUOTE_REQUEST: Final = 0
GET_QUOTE_RESPONSE: Final = 1
ERROR_INVALID_PARAMETER: Final = 0x12000002

_HEADER = struct.Struct("<HHIII")  # major, minor, type, size, error
_SIZES = struct.Struct("<II")
_QUOTE_HEADER = struct.Struct("<HHIHH16s20s")
_VERSION, _KEY_ECDSA_P256, _TEE_TDX = 4, 2, 0x81
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_USER_DATA = b"cvmlab: fake quote"
_CERT_QE_REPORT, _CERT_PEM_CHAIN = 6, 5
_PEM = b"-----BEGIN CERTIFICATE-----\nRkFLRSBieSBjdm1sYWI=\n-----END CERTIFICATE-----\n\0"
# Offsets in TDREPORT_STRUCT: TEE_TCB_INFO at 256, TDINFO_STRUCT at 512.
_TCB, _INFO = 256, 512


class QuoteError(CvmError):
    """The request is invalid."""


def quote_body(report: bytes) -> bytes:
    """Return the 584 bytes of a quote that come from the report."""
    tcb, info = report[_TCB:_INFO], report[_INFO:]
    return b"".join(
        [
            tcb[8:24],  # TEE_TCB_SVN
            tcb[24:72],  # MRSEAM
            tcb[72:120],  # MRSIGNERSEAM
            tcb[120:128],  # SEAMATTRIBUTES
            info[0:16],  # TDATTRIBUTES, XFAM
            info[16:208],  # MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG
            info[208:400],  # RTMR0 to RTMR3
            report[128:192],  # REPORTDATA
        ]
    )


def _fake(size: int) -> bytes:
    return (b"FAKE" * (size // 4 + 1))[:size]


def fake_quote(report: bytes) -> bytes:
    """Return a quote for a TDREPORT_STRUCT; raise QuoteError if *report* is not one."""
    if len(report) != REPORT_BYTES or report[0] != _TEE_TDX:
        raise QuoteError("this is not a TDX report")
    header = _QUOTE_HEADER.pack(
        _VERSION, _KEY_ECDSA_P256, _TEE_TDX, 0, 0, _INTEL_QE, _USER_DATA.ljust(20, b"\0")
    )
    chain = struct.pack("<HI", _CERT_PEM_CHAIN, len(_PEM)) + _PEM
    qe_report = _fake(384) + _fake(64) + struct.pack("<H", 32) + _fake(32) + chain
    certification = struct.pack("<HI", _CERT_QE_REPORT, len(qe_report)) + qe_report
    signature = _fake(64) + _fake(64) + certification
    return header + quote_body(report) + struct.pack("<I", len(signature)) + signature


def answer(message: bytes) -> bytes:
    """Return the response to a request, both without the length in front."""
    quote, error = b"", 0
    try:
        quote = fake_quote(_report_of(message))
    except QuoteError:
        error = ERROR_INVALID_PARAMETER
    size = _HEADER.size + _SIZES.size + len(quote)
    header = _HEADER.pack(1, 0, GET_QUOTE_RESPONSE, size, error)
    return header + _SIZES.pack(0, len(quote)) + quote


def _report_of(message: bytes) -> bytes:
    if len(message) < _HEADER.size + _SIZES.size:
        raise QuoteError("the request is cut short")
    _major, _minor, kind, size, _error = _HEADER.unpack_from(message)
    report_size, _ids = _SIZES.unpack_from(message, _HEADER.size)
    if kind != GET_QUOTE_REQUEST or size != len(message):
        raise QuoteError("this is not a request for a quote")
    start = _HEADER.size + _SIZES.size
    return message[start : start + report_size]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await write_frame(writer, answer(await read_frame(reader)))


def quote_service(path: Path) -> AbstractAsyncContextManager[Path]:
    """Serve on the Unix socket *path* while the block runs; its end closes all connections."""
    return serve(path, _serve)
