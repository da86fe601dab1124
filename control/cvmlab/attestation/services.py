# SPDX-License-Identifier: GPL-2.0-or-later
"""The attestation services, by the word that a profile's row has for one."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from cvmlab.attestation.guest_requests import guest_request_service
from cvmlab.attestation.quotes import quote_service


# Serves guests on a socket at the path until the block ends.
Service = Callable[[Path], AbstractAsyncContextManager[Path]]

SERVICES: Final[Mapping[str, Service]] = {
    "tdx-quotes": quote_service,
    "snp-requests": guest_request_service,
}
