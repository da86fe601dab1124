# SPDX-License-Identifier: GPL-2.0-or-later
"""The attestation services, by the word that a profile's row has for one, and who signs for them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cvmlab.attestation.guest_requests import guest_request_service
from cvmlab.attestation.quotes import quote_service
from cvmlab.attestation.signed_quotes import quote_signer
from cvmlab.attestation.signed_reports import report_signer
from cvmlab.pki.authorities import Pki
from cvmlab.pki.pki_folder import load
from cvmlab.pki.platforms import PLATFORMS


@dataclass(frozen=True, slots=True)
class Service:
    """``serve(path)`` serves guests on a socket until the block ends, with obviously fake proofs.

    ``serve(path, signer)`` serves signed ones, for what ``signer(pki, platform)`` returns.
    """

    serve: Callable[..., AbstractAsyncContextManager[Path]]
    signer: Callable[[Pki, Any], Any]


SERVICES: Final[Mapping[str, Service]] = {
    "tdx-quotes": Service(quote_service, quote_signer),
    "snp-requests": Service(guest_request_service, report_signer),
}


def attestation_service(
    name: str, path: Path, pki_folder: Path | None, options: Iterable[str]
) -> AbstractAsyncContextManager[Path]:
    """Return the service *name* on the socket *path*; raise ConfigError if it could not sign.

    Without a folder of a PKI, what it says is obviously fake.
    """
    service = SERVICES[name]
    if pki_folder is None:
        return service.serve(path)
    platform = PLATFORMS[name].of(options)
    return service.serve(path, service.signer(load(pki_folder), platform))
