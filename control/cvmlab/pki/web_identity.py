# SPDX-License-Identifier: GPL-2.0-or-later
"""Who the services are that verifiers fetch from, by HTTPS: a certificate of its own.  Pure."""

from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.x509.oid import ExtendedKeyUsageOID

from cvmlab.pki.certificates import Identity, Subject, distinguished_name, issue
from cvmlab.pki.derived import Seed


HOST: Final = "127.0.0.1"
_NAME: Final = "localhost"
# Where QEMU's user network has the host.
_FROM_A_GUEST: Final = "10.0.2.2"


def web_identity(seed: Seed) -> Identity:
    """Return the certificate of the services, which signs itself, and its key."""
    names = [x509.DNSName(_NAME), *(x509.IPAddress(ip_address(at)) for at in (HOST, _FROM_A_GUEST))]
    return issue(
        Subject(
            name=distinguished_name("cvmlab test services"),
            key=seed.ec_key("web services", SECP256R1()),
            serial=seed.serial("web services"),
            extensions=(
                (x509.SubjectAlternativeName(names), False),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            ),
        )
    )
