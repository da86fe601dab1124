# SPDX-License-Identifier: GPL-2.0-or-later
"""The event ring's bytes: one record, and the header in front of them.

Offsets and numbers are those of plugin/core/rmem.h; a test compares them with the compiled core.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cvmlab.ranges import PAGE_SIZE, GpaRange
from cvmlab.states import COUNTER_SLOTS, Named, PageState, Refusal


SHARED_MAGIC = 0x3152494E474D4552
SHARED_VERSION = 2
RECORDS_OFFSET = 4096
NO_VCPU = 0xFFFF
NO_DEVICE = 0xFFFF
FLAG_WRITE = 0x01  # host access: direction
RING_LOSSLESS = 0x01  # producers wait for room, with a deadline

_RECORD_FIELDS = {
    "seq": ("<u8", 0),
    "vtime_ns": ("<u8", 8),
    "htime_ns": ("<u8", 16),
    "gpa": ("<u8", 24),
    "rip": ("<u8", 32),
    "pages": ("<u4", 40),
    "vcpu": ("<u2", 44),
    "device": ("<u2", 46),
    "kind": ("u1", 48),
    "actor": ("u1", 49),
    "from": ("u1", 50),
    "to": ("u1", 51),
    "verdict": ("u1", 52),
    "refusal": ("u1", 53),
    "flags": ("u1", 54),
}
_SHARED_FIELDS = {
    "magic": ("<u8", 0),
    "version": ("<u4", 8),
    "record_size": ("<u4", 12),
    "capacity": ("<u8", 16),
    "flags": ("<u8", 24),
    "table_pages": ("<u8", 32),
    "owner": ("<u8", 40),
    "head": ("<u8", 64),
    "dropped": ("<u8", 72),
    "tail": ("<u8", 128),
    "pages": (f"({len(PageState)},)<i8", 192),
    "phase": ("<u8", 224),
    "generation": ("<u8", 232),
    "counters": (f"({COUNTER_SLOTS},)<u8", 256),
}


def _layout(fields: Mapping[str, tuple[str, int]], size_bytes: int) -> np.dtype[np.void]:
    formats, offsets = zip(*fields.values(), strict=True)
    return np.dtype(
        {
            "names": list(fields),
            "formats": list(formats),
            "offsets": list(offsets),
            "itemsize": size_bytes,
        }
    )


RECORD = _layout(_RECORD_FIELDS, 64)
SHARED = _layout(_SHARED_FIELDS, 512)


class Kind(Named):
    NONE = 0  # slot not written yet
    ACCEPT = 1
    CONVERT = 2
    DISCARD = 3
    POISON = 4
    LOAD = 5
    HOST_FAULT = 6  # host access to private memory; verdict says what was done
    GUEST_FAULT = 7  # memory-fault exit, injected exception, machine check
    VIOLATION = 8  # guest request refused; refusal says why
    PHASE = 9  # boot phase begins; flags hold the Phase
    RESET = 10
    INVALIDATE = 11  # around a change by the host; flags hold 0 start, 1 end
    POLICY = 12  # access policy changed; verdict is the new one


class Actor(Named):
    VCPU = 0
    DEVICE = 1
    LOADER = 2
    MONITOR = 3
    GDB = 4
    HOST = 5


class Phase(Named):
    LAUNCH = 0
    FIRMWARE = 1
    EFI_STUB = 2  # of a kernel given with --kernel, under OVMF
    KERNEL = 3
    USER = 4


class Verdict(Named):
    DENY = 0
    SHARE = 1
    ZERO = 2
    STOP = 3
    ALLOW = 4


def header_fault(header: np.void) -> str | None:
    """Say why *header* (dtype SHARED) is not that of a ring this version reads, or return None."""
    if header["magic"] != SHARED_MAGIC:
        return "the event ring has no header yet"
    if header["version"] != SHARED_VERSION:
        return f"the event ring is of version {header['version']}, not {SHARED_VERSION}"
    if header["record_size"] != RECORD.itemsize:
        return f"the event ring has records of {header['record_size']} bytes, not {RECORD.itemsize}"
    return None


def views(ring: memoryview) -> tuple[np.void, NDArray[np.void]]:
    """Return header and records of a mapped ring file, live: they share its memory."""
    header = np.frombuffer(ring, SHARED, 1)
    return header[0], np.frombuffer(ring, RECORD, offset=RECORDS_OFFSET)


def who(record: np.void, devices: Mapping[int, str] | None = None) -> str:
    """Name the actor: ``vcpu 0``, ``device virtio-blk0``, ``gdb``."""
    actor, vcpu, device = Actor(int(record["actor"])), int(record["vcpu"]), int(record["device"])
    if actor is Actor.VCPU and vcpu != NO_VCPU:
        return f"vcpu {vcpu}"
    if device != NO_DEVICE:
        return f"{actor.word} {(devices or {}).get(device, f'#{device}')}"
    return actor.word


def describe(record: np.void, devices: Mapping[int, str] | None = None) -> str:
    """Return one line for people; *devices* maps the index in a record to a device's name."""
    text = _SAY[Kind(int(record["kind"]))](record, who(record, devices))
    return f"{int(record['vtime_ns']) / 1e9:12.6f} {text}"


def _step(record: np.void, actor: str) -> str:
    kind, before, after = Kind(int(record["kind"])), _state(record, "from"), _state(record, "to")
    return f"{actor} {kind.word} {_range(record)} {before} -> {after}{_rip(record)}"


def _host_fault(record: np.void, actor: str) -> str:
    way = "wrote" if record["flags"] & FLAG_WRITE else "read"
    return f"{actor} {way} {_spot(record)}: {_verdict(record)}{_rip(record)}"


def _guest_fault(record: np.void, actor: str) -> str:
    return f"{actor} faulted on {_spot(record)}{_rip(record)}"


def _violation(record: np.void, actor: str) -> str:
    rule = Refusal(int(record["refusal"])).word
    return f"{actor} was refused {_range(record)}: {rule}{_rip(record)}"


def _phase(record: np.void, _: str) -> str:
    return f"phase {Phase(int(record['flags'])).word} begins"


def _invalidate(record: np.void, actor: str) -> str:
    return f"{actor} invalidate {'end' if record['flags'] else 'start'} {_range(record)}"


def _policy(record: np.void, actor: str) -> str:
    return f"{actor} set the access policy to {_verdict(record)}"


_SAY: Mapping[Kind, Callable[[np.void, str], str]] = {
    Kind.NONE: lambda _record, _actor: "nothing",
    Kind.ACCEPT: _step,
    Kind.CONVERT: _step,
    Kind.DISCARD: _step,
    Kind.POISON: _step,
    Kind.LOAD: _step,
    Kind.HOST_FAULT: _host_fault,
    Kind.GUEST_FAULT: _guest_fault,
    Kind.VIOLATION: _violation,
    Kind.PHASE: _phase,
    Kind.RESET: lambda _record, _actor: "the guest was reset, all pages are pending",
    Kind.INVALIDATE: _invalidate,
    Kind.POLICY: _policy,
}


def _state(record: np.void, field: str) -> str:
    return PageState(int(record[field])).word


def _spot(record: np.void) -> str:
    return f"{_state(record, 'from')} {int(record['gpa']):#x}"


def _range(record: np.void) -> str:
    pages = int(record["pages"])
    return str(GpaRange(int(record["gpa"]), pages * PAGE_SIZE)) if pages else "nothing"


def _verdict(record: np.void) -> str:
    return Verdict(int(record["verdict"])).word


def _rip(record: np.void) -> str:
    rip = int(record["rip"])
    return f" at {rip:#x}" if rip else ""
