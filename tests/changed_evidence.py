# SPDX-License-Identifier: GPL-2.0-or-later
"""Where tests change a quote or a report: whatever is there, a verifier must refuse it."""


def flipped(evidence: bytes, at: int) -> bytes:
    return evidence[:at] + bytes([evidence[at] ^ 0x10]) + evidence[at + 1 :]


BODY, SIGNATURE = 48, 636
QE_REPORT = SIGNATURE + 134
QUOTE_PLACES = {
    "version": 0, "key type": 2, "tee": 4, "vendor": 12, "user data": 28,
    "TEE TCB SVN": BODY, "MRSEAM": BODY + 16, "MRSIGNERSEAM": BODY + 64, "SEAM attributes": BODY + 112,
    "TD attributes": BODY + 120, "debug": BODY + 120 + 7, "XFAM": BODY + 128, "MRTD": BODY + 136,
    "MRTD end": BODY + 183, "MRCONFIGID": BODY + 184, "MROWNER": BODY + 232,
    "MROWNERCONFIG": BODY + 280, "RTMR0": BODY + 328, "RTMR1": BODY + 376, "RTMR2": BODY + 424,
    "RTMR3": BODY + 472, "REPORTDATA": BODY + 520, "REPORTDATA end": BODY + 583,
    "r": SIGNATURE, "s": SIGNATURE + 32, "key x": SIGNATURE + 64, "key y": SIGNATURE + 96,
    "certification type": SIGNATURE + 128, "QE CPUSVN": QE_REPORT, "QE attributes": QE_REPORT + 48,
    "MRENCLAVE": QE_REPORT + 64, "MRSIGNER": QE_REPORT + 128, "ISVPRODID": QE_REPORT + 256,
    "ISVSVN": QE_REPORT + 258, "QE data": QE_REPORT + 320, "QE r": QE_REPORT + 384,
    "QE s": QE_REPORT + 416, "authentication": QE_REPORT + 450, "chain type": QE_REPORT + 482,
    "PCK certificate": QE_REPORT + 600,
}  # fmt: skip


REPORT_PLACES = {
    "version": 0, "guest SVN": 4, "policy": 8, "debug": 10, "family": 0x10, "image": 0x20,
    "VMPL": 0x30, "algorithm": 0x34, "current TCB": 0x38, "platform": 0x40, "flags": 0x48,
    "data": 0x50, "data end": 0x8F, "measurement": 0x90, "measurement end": 0xBF,
    "host data": 0xC0, "ID key": 0xE0, "author key": 0x110, "report ID": 0x140, "agent": 0x160,
    "reported TCB": 0x180, "microcode": 0x187, "family ID": 0x188, "model": 0x189, "stepping": 0x18A,
    "chip": 0x1A0, "chip end": 0x1DF, "committed TCB": 0x1E0, "build": 0x1E8, "launch TCB": 0x1F0,
    "reserved": 0x29F, "r": 0x2A0, "s": 0x2E8,
}  # fmt: skip
