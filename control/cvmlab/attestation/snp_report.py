# SPDX-License-Identifier: GPL-2.0-or-later
"""Attestation reports of SNP guests, and who signs them.  Pure.

"SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), table "ATTESTATION_REPORT".
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
FAKE_SIGNATURE: Final = b"FAKE" * 36  # R and S of P-384
# Key selection of a request: bits of a report request and, shifted by one, of a key request.
ANY_KEY, CHIP_KEY, PROVIDER_KEY = range(3)
# What a report calls the key that signed it.
_VCEK, _VLEK = 0, 1

_ECDSA_P384_SHA384: Final = 1
_ABI: Final = (0, 55, 1)  # build, minor, major
_CPUID_SINCE: Final = 3  # version of a report


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the firmware learns at a guest's launch.  Digests are zeros without an ID block."""

    policy: int
    vmpck: tuple[bytes, bytes, bytes, bytes]
    measurement: bytes
    host_data: bytes
    family_id: bytes
    image_id: bytes
    guest_svn: int
    has_author_key: bool
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """What a report says of the processor; ``secret`` is the root of derived keys."""

    report_version: int
    cpuid: tuple[int, int, int]
    tcb: bytes
    chip: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class ReportKey:
    """A key that signs reports: what a report calls it, and 144 bytes for what is signed."""

    called: int
    sign: Callable[[bytes], bytes]

    @classmethod
    def vcek(cls, sign: Callable[[bytes], bytes]) -> "ReportKey":
        return cls(_VCEK, sign)

    @classmethod
    def vlek(cls, sign: Callable[[bytes], bytes]) -> "ReportKey":
        return cls(_VLEK, sign)


@dataclass(frozen=True, slots=True)
class Signer:
    """A processor and its keys, by the word of a request that selects one.

    ``alter`` makes of each report the one that is answered.
    """

    processor: Processor
    keys: Mapping[int, ReportKey]
    alter: Callable[[bytes], bytes] = bytes

    def key(self, selection: int) -> ReportKey | None:
        """Return the key that a request selects; None if there is no such key."""
        return self.keys.get(selection)


def _fake_signer() -> Signer:
    key = ReportKey.vcek(lambda _content: FAKE_SIGNATURE)
    processor = Processor(
        report_version=2,
        cpuid=(0, 0, 0),
        tcb=bytes(8),
        chip=b"cvmlab: emulated, this is no chip".ljust(64, b"\0"),
        secret=b"cvmlab: a fake root key, known to everybody",
    )
    return Signer(processor, {ANY_KEY: key, CHIP_KEY: key})


# Its reports prove nothing.
FAKE_SIGNER: Final = _fake_signer()


def signed_report(
    launch: Launch, data: bytes, vmpl: int, processor: Processor, key: ReportKey
) -> bytes:
    """Return an attestation report over 64 bytes of *data* of the guest's choice."""
    content = _content(launch, data, vmpl, processor, key).ljust(SIGNED_BYTES, b"\0")
    return (content + key.sign(content)).ljust(REPORT_BYTES, b"\0")


def _content(launch: Launch, data: bytes, vmpl: int, processor: Processor, key: ReportKey) -> bytes:
    has_cpuid = processor.report_version >= _CPUID_SINCE
    cpuid = bytes(processor.cpuid) if has_cpuid else bytes(3)
    platform, version = 0, (*_ABI, 0)
    parts = [
        struct.pack("<IIQ", processor.report_version, launch.guest_svn, launch.policy),
        launch.family_id,
        launch.image_id,
        struct.pack("<II8sQ", vmpl, _ECDSA_P384_SHA384, processor.tcb, platform),
        struct.pack("<II", launch.has_author_key | key.called << 2, 0),
        data,
        launch.measurement,
        launch.host_data,
        launch.id_key_digest,
        launch.author_key_digest,
        launch.report_id,
        bytes(32),  # no migration agent
        processor.tcb,
        cpuid.ljust(24, b"\0"),
        processor.chip,
        processor.tcb,
        bytes(version) * 2,
        processor.tcb,
    ]
    return b"".join(parts)


def is_newer(asked: int, tcb: bytes) -> bool:
    """Tell whether a TCB_VERSION as a number asks for a newer part than *tcb* has."""
    return any(a > b for a, b in zip(asked.to_bytes(8, "little"), tcb, strict=True))
