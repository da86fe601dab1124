# SPDX-License-Identifier: GPL-2.0-or-later
"""TDX quotes of versions 4 and 5: "Intel TDX DCAP Quoting Library API", appendix 3.  Pure."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cvmlab.base.errors import CvmError
from cvmlab.pki.platforms import DEFAULT_QUOTE_VERSION


REPORT_BYTES: Final = 1024
TEE_TCB_SVN_BYTES: Final = 16
_HEADER = struct.Struct("<HHIHH16s20s")
_KEY_ECDSA_P256, _TEE_TDX = 2, 0x81
# In version 5 the body has a type and a size before it; 3 is that of a TD of module 1.5.
_BODY = struct.Struct("<HI")
_BODY_TD_1_5 = 3
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_CERT_QE_REPORT, _CERT_PEM_CHAIN = 6, 5
# Offsets in TDREPORT_STRUCT: TEE_TCB_INFO at 256, TDINFO_STRUCT at 512.
_TCB, _INFO = 256, 512


class QuoteError(CvmError):
    """The request is invalid."""


@dataclass(frozen=True, slots=True)
class QeCertification:
    """What vouches for the attestation key: a report of the quoting enclave, signed by the PCK."""

    report: bytes
    signature: bytes
    authentication: bytes
    chain: bytes

    def packed(self) -> bytes:
        """Return it as certification data."""
        chain = struct.pack("<HI", _CERT_PEM_CHAIN, len(self.chain)) + self.chain
        size = struct.pack("<H", len(self.authentication))
        whole = self.report + self.signature + size + self.authentication + chain
        return struct.pack("<HI", _CERT_QE_REPORT, len(whole)) + whole


def quote(
    report: bytes,
    *,
    user_data: bytes,
    sign: Callable[[bytes], bytes],
    key: bytes,
    certification: QeCertification,
    tee_tcb_svn: bytes | None = None,
    version: int = DEFAULT_QUOTE_VERSION,
) -> bytes:
    """Return a quote for a TDREPORT_STRUCT; raise QuoteError if *report* is not one.

    *sign* returns 64 bytes, as does *key*.  *tee_tcb_svn* is of the TDX module that a platform is
    said to have; the report itself comes from none.  *version* is one of QUOTE_VERSIONS.
    """
    if len(report) != REPORT_BYTES or report[0] != _TEE_TDX:
        raise QuoteError("this is not a TDX report")
    header = _HEADER.pack(
        version, _KEY_ECDSA_P256, _TEE_TDX, 0, 0, _INTEL_QE, user_data.ljust(20, b"\0")
    )
    if tee_tcb_svn is not None:
        report = _of_module(report, tee_tcb_svn)
    body = quote_body(report) if version == DEFAULT_QUOTE_VERSION else _body_and_type(report)
    signature = sign(header + body) + key + certification.packed()
    return header + body + struct.pack("<I", len(signature)) + signature


def _of_module(report: bytes, tee_tcb_svn: bytes) -> bytes:
    """Return *report* as if a TDX module of this TCB had made it, and ran now, too."""
    changed = bytearray(report)
    for at in (_TCB + 8, _TCB + 128):  # TEE_TCB_SVN, TEE_TCB_SVN2
        changed[at : at + TEE_TCB_SVN_BYTES] = tee_tcb_svn
    return bytes(changed)


def _body_and_type(report: bytes) -> bytes:
    """Return what version 5 has where version 4 has its body."""
    tcb, info = report[_TCB:_INFO], report[_INFO:]
    body = quote_body(report) + tcb[128:144] + info[400:448]  # TEE_TCB_SVN2, SERVTD_HASH
    return _BODY.pack(_BODY_TD_1_5, len(body)) + body


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
