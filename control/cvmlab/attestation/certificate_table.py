# SPDX-License-Identifier: GPL-2.0-or-later
"""The certificates that an extended guest request returns beside an SNP report.  Pure.

"SEV-ES Guest-Hypervisor Communication Block Standardization" (AMD 56421), "SNP Extended Guest
Request".  The bytes of a GUID are in the order in which it is written.
"""

import struct
from typing import Final
from uuid import UUID

from cvmlab.pki.authorities import Pki
from cvmlab.pki.platforms import SnpPlatform


_VCEK: Final = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
_VLEK: Final = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
_ASK: Final = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
_ARK: Final = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
_ENTRY: Final = struct.Struct("<16sII")  # GUID, offset, size; zeros end the table


def certificate_table(pki: Pki, platform: SnpPlatform) -> bytes:
    """Return the table and the certificates: of the key that signs reports, its issuer, and the root.

    With a VLEK, the issuer is the ASVK, under the GUID of the ASK.
    """
    chain = pki.snp[platform.product]
    if platform.csp:
        found = {_VLEK: pki.vlek(platform).der, _ASK: chain.asvk.der, _ARK: chain.ark.der}
    else:
        found = {_VCEK: pki.vcek(platform).der, _ASK: chain.ask.der, _ARK: chain.ark.der}
    at = _ENTRY.size * (len(found) + 1)
    entries, contents = b"", b""
    for guid, content in found.items():
        entries += _ENTRY.pack(guid.bytes, at + len(contents), len(content))
        contents += content
    return entries + bytes(_ENTRY.size) + contents
