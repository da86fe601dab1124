# SPDX-License-Identifier: GPL-2.0-or-later
"""What verifiers of TDX quotes need beside the quote: TCB info, QE identity, revocation lists.  Pure.

The documents are those of version 4 of Intel's provisioning certification service: TCB info of
version 3, QE identity of version 2.  A signature is over the exact bytes of the inner document.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from cvmlab.attestation.signed_quotes import QUOTING_ENCLAVE, raw_signature
from cvmlab.pki.authorities import Pki
from cvmlab.pki.certificates import revocation_list
from cvmlab.pki.platforms import COMPONENTS, PCK_CAS, TdxPlatform


LIFETIME: Final = timedelta(days=30)
_EVALUATION: Final = 17
_ADVISORIES: Final = ("INTEL-SA-00000",)
_TDX_MODULES: Final = (1, 3, 5)


class Technology(StrEnum):
    """Whose TCB a document is about: the first part of its path."""

    SGX = "sgx"
    TDX = "tdx"


class TcbStatus(StrEnum):
    """What a vendor says of a platform at its newest level."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING = "SWHardeningNeeded"
    CONFIGURATION = "ConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """When documents are made, and what they say."""

    made: datetime
    status: TcbStatus = TcbStatus.UP_TO_DATE
    revokes_authorities: bool = False  # the PCK CAs, and each ASK and ASVK

    @property
    def until(self) -> datetime:
        return self.made + LIFETIME


def signed_document(pki: Pki, name: str, content: Mapping[str, Any]) -> str:
    """Return *content* under *name*, with the signature beside it."""
    text = json.dumps(content, separators=(",", ":"))
    signature = raw_signature(pki.tdx.tcb_signing.ec_key, text.encode())
    return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'


def issuer_chain(pki: Pki) -> str:
    """Return the certificates of who signs the documents."""
    return pki.tdx.tcb_signing.pem + pki.tdx.root.pem


def tcb_info(
    platform: TdxPlatform, issue: Issue, *, technology: Technology = Technology.TDX
) -> dict[str, Any]:
    """Return the TCB info for platforms like this one; older ones are out of date."""
    return {
        "id": technology.upper(),
        "version": 3,
        **_dates(issue),
        "fmspc": platform.fmspc.hex().upper(),
        "pceId": platform.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": _EVALUATION,
        **(_tdx_modules(issue) if technology is Technology.TDX else {}),
        "tcbLevels": [
            _level(platform.cpu_svn, platform.tee_tcb_svn, platform.pce_svn, issue.status, issue),
            _level((0,) * COMPONENTS, (0,) * COMPONENTS, 0, TcbStatus.OUT_OF_DATE, issue),
        ],
    }


def qe_identity(issue: Issue, *, technology: Technology = Technology.TDX) -> dict[str, Any]:
    """Return the identity of the quoting enclave that signed_quotes.py plays."""
    enclave = QUOTING_ENCLAVE
    return {
        "id": "TD_QE" if technology is Technology.TDX else "QE",
        "version": 2,
        **_dates(issue),
        "tcbEvaluationDataNumber": _EVALUATION,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": enclave.attributes.hex().upper(),
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": enclave.signer.hex().upper(),
        "isvprodid": enclave.product,
        "tcbLevels": [
            {
                "tcb": {"isvsvn": enclave.svn},
                "tcbDate": _date(issue.made),
                "tcbStatus": TcbStatus.UP_TO_DATE,
            }
        ],
    }


def pck_revocation_list(pki: Pki, issue: Issue, ca: str) -> bytes:
    """Return the list of a PCK CA, DER.  Nothing is on it."""
    made = revocation_list(pki.tdx.pck_ca(ca), (), made=issue.made, until=issue.until)
    return made.public_bytes(Encoding.DER)


def root_revocation_list(pki: Pki, issue: Issue) -> bytes:
    """Return the root's list, DER."""
    authorities = [pki.tdx.pck_ca(ca) for ca in PCK_CAS] if issue.revokes_authorities else []
    revoked = [authority.certificate.serial_number for authority in authorities]
    made = revocation_list(pki.tdx.root, revoked, made=issue.made, until=issue.until)
    return made.public_bytes(Encoding.DER)


def _dates(issue: Issue) -> dict[str, str]:
    return {"issueDate": _date(issue.made), "nextUpdate": _date(issue.until)}


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tdx_modules(issue: Issue) -> dict[str, Any]:
    any_module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    return {
        "tdxModule": any_module,
        "tdxModuleIdentities": [_module(number, issue) for number in _TDX_MODULES],
    }


def _module(number: int, issue: Issue) -> dict[str, Any]:
    level = {"tcb": {"isvsvn": 0}, "tcbDate": _date(issue.made), "tcbStatus": TcbStatus.UP_TO_DATE}
    return {
        "id": f"TDX_{number:02}", "mrsigner": "00" * 48, "attributes": "00" * 8,
        "attributesMask": "FF" * 8, "tcbLevels": [level],
    }  # fmt: skip


def _level(
    cpu_svn: tuple[int, ...],
    tee_tcb_svn: tuple[int, ...],
    pce_svn: int,
    status: TcbStatus,
    issue: Issue,
) -> dict[str, Any]:
    level: dict[str, Any] = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn} for svn in cpu_svn],
            "pcesvn": pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in tee_tcb_svn],
        },
        "tcbDate": _date(issue.made),
        "tcbStatus": status,
    }
    return level if status is TcbStatus.UP_TO_DATE else {**level, "advisoryIDs": list(_ADVISORIES)}
