# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks secretvm-verify, which is installed beside this program, about a quote and a report.

JSON from stdin: services, in place of the vendors'; quote; report; and the digest of an ARK's key.
"""

import json
import sys

from secretvm.verify import amd, tdx  # type: ignore[import-not-found]


given = json.load(sys.stdin)
tdx._PCCS_HOST = amd._AMD_KDS_BASE = given["services"]


def said(result: amd.AttestationResult) -> dict[str, object]:
    return {"valid": result.valid, "checks": result.checks, "errors": result.errors}


answers = [
    tdx.check_tdx_cpu_attestation(given["quote"]),
    amd.check_sev_cpu_attestation(given["report"], product="Genoa"),
]
# Told of the test root, it has nothing against the report: the pin alone refuses it.
amd._PINNED_ARK_SPKI_SHA256 = {"Genoa": given["key"]}
answers.append(amd.check_sev_cpu_attestation(given["report"], product="Genoa"))
print(json.dumps([said(answer) for answer in answers]))  # noqa: T201
