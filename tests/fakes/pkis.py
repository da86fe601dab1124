# SPDX-License-Identifier: GPL-2.0-or-later
"""A test PKI with small RSA keys, which are made in a second, and reports to sign with it."""

from functools import cache

from cvmlab.attestation.snp_report import Launch
from cvmlab.pki.amd_chain import AmdKeys, amd_keys
from cvmlab.pki.authorities import Pki
from cvmlab.pki.derived import Seed


SEED = Seed("demo")
DATA = bytes(range(64))
MRTD = b"M" * 48
MEASUREMENT = b"m" * 48
_SEPT_VE_DISABLE = 1 << 28


@cache
def small_keys(seed: Seed = SEED) -> AmdKeys:
    return amd_keys(seed, 2048)


@cache
def small_pki(seed: Seed = SEED) -> Pki:
    return Pki.of(seed, small_keys(seed))


def td_report() -> bytes:
    """Return a TDREPORT_STRUCT as the plugin makes it."""
    report = bytearray(1024)
    report[0] = 0x81
    report[128:192] = DATA
    report[512:520] = _SEPT_VE_DISABLE.to_bytes(8, "little")
    report[520:528] = (7).to_bytes(8, "little")
    report[528:576] = MRTD
    for number in range(4):
        at = 720 + 48 * number
        report[at : at + 48] = bytes([number]) * 48
    return bytes(report)


SNP_LAUNCH = Launch(
    policy=0x30000, vmpck=(bytes(32),) * 4, measurement=MEASUREMENT, host_data=bytes(32),
    family_id=bytes(16), image_id=bytes(16), guest_svn=0, has_author_key=False,
    id_key_digest=bytes(48), author_key_digest=bytes(48), report_id=b"R" * 32,
)  # fmt: skip
