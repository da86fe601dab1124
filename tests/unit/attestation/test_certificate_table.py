# SPDX-License-Identifier: GPL-2.0-or-later
"""The certificates that the host hands to an SNP guest, read by hand."""

import struct
import uuid

import pytest

from cvmlab.attestation.certificate_table import certificate_table
from cvmlab.pki.platforms import SnpPlatform
from tests.fakes.pkis import small_pki


PKI = small_pki()


@pytest.mark.parametrize("csp", ["", "a cloud"])
def test_a_table_of_certificates_leads_to_each(csp: str) -> None:
    platform = SnpPlatform(csp=csp)
    table, at, found = certificate_table(PKI, platform), 0, {}
    while any(table[at : at + 24]):
        guid, offset, size = struct.unpack_from("<16sII", table, at)
        found[str(uuid.UUID(bytes=guid))] = table[offset : offset + size]
        at += 24
    chain = PKI.snp["genoa"]
    key, issuer = (
        ({"a8074bc2-a25a-483e-aae6-39c045a0b8a1": PKI.vlek(platform).der}, chain.asvk)
        if csp
        else ({"63da758d-e664-4564-adc5-f4b93be8accd": PKI.vcek(platform).der}, chain.ask)
    )
    assert found == {
        **key,
        "4ab7b379-bbac-4fe4-a02f-05aef327c782": issuer.der,
        "c0b406a4-a803-4952-9743-3fb6014cd0ae": chain.ark.der,
    }
