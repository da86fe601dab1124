# SPDX-License-Identifier: GPL-2.0-or-later
"""The attestation services, by the word that a profile's row has for one, and who signs for them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cvmlab.attestation.certificate_table import certificate_table
from cvmlab.attestation.guest_requests import guest_request_service
from cvmlab.attestation.quote_faults import QuoteFault, QuoteFaultKind
from cvmlab.attestation.quotes import quote_service
from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.attestation.signed_tokens import token_signer
from cvmlab.attestation.token_requests import token_service
from cvmlab.pki.pki_folder import load
from cvmlab.pki.platforms import PLATFORMS


@dataclass(frozen=True, slots=True)
class Service:
    """``serve(path, signer, fault)`` serves guests on a socket until the block ends.

    ``signer(pki, platform, wrong_key=)`` makes a signer; without one, proofs are obviously fake.
    ``certificates(pki, platform)`` makes what the host itself hands to a guest; None: nothing.
    """

    serve: Callable[..., AbstractAsyncContextManager[Path]]
    signer: Callable[..., Any]
    certificates: Callable[..., bytes] | None = None


SERVICES: Final[Mapping[str, Service]] = {
    "tdx-quotes": Service(quote_service, quote_signer),
    "snp-requests": Service(guest_request_service, report_signer, certificate_table),
    "cca-tokens": Service(token_service, token_signer),
}


def attestation_service(
    name: str,
    path: Path,
    pki_folder: Path | None = None,
    options: Iterable[str] = (),
    fault: str | None = None,
) -> AbstractAsyncContextManager[Path]:
    """Return the service *name* on the socket *path*; raise ConfigError if it could not sign.

    Without a folder of a PKI, what it says is obviously fake.  *fault*: how it fails on purpose.
    """
    service = SERVICES[name]
    failing = None if fault is None else QuoteFault.of(fault)
    signer = None
    if pki_folder is not None:
        platform = PLATFORMS[name].of(options)
        wrong_key = failing is not None and failing.kind is QuoteFaultKind.WRONG_KEY
        signer = service.signer(load(pki_folder), platform, wrong_key=wrong_key)
    return service.serve(path, signer, failing)


def host_certificates(name: str, pki_folder: Path, options: Iterable[str] = ()) -> bytes | None:
    """Return what the host of a guest hands to it for *name*; None if it hands nothing."""
    make = SERVICES[name].certificates
    return None if make is None else make(load(pki_folder), PLATFORMS[name].of(options))
