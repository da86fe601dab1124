# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of the event ring: its header and its records.

Offsets and numbers are those of plugin/core/rmem.h; a test compares them with the compiled core.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.states import COUNTER_SLOTS, Named, PageState, RefusalCode


T = TypeVar("T")
SHARED_MAGIC = 0x3152494E474D4552
SHARED_VERSION = 2
RECORDS_OFFSET = 4096
NO_VCPU = 0xFFFF
NO_DEVICE = 0xFFFF
FLAG_WRITE = 0x01  # direction
# Of guest faults: what the access was.  Of conversions: IMPLICIT, by use and without a request.
FLAG_FETCH = 0x02
FLAG_WALK = 0x04  # of a page table, for the instruction at rip
FLAG_AS_PRIVATE = 0x08  # the address asked for the private view
FLAG_AS_SHARED = 0x10
FLAG_ACCEPTING = 0x20  # no access: the guest asked to accept the page
FLAG_IMPLICIT = 0x40
FLAG_STATE = 0x80  # of host accesses: to CPU state, not to memory
FLAG_EXIT_SHIFT = 1  # of the GuestExit in a record of kind EXIT
RING_LOSSLESS = 0x01  # producers wait for space, with a deadline

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
    "stack": ("<u4", 56),  # number of a window of stacks.py, 0 for none
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
    HOST_FAULT = 6  # host access to private memory; verdict is the policy's answer
    GUEST_FAULT = 7  # memory-fault exit, injected exception, machine check
    VIOLATION = 8  # guest request refused; refusal says why
    PHASE = 9  # boot phase begins; flags hold the Phase
    RESET = 10
    INVALIDATE = 11  # before and after a change by the host; flags are 0 for start, 1 for end
    POLICY = 12  # access policy changed; verdict is the new one
    # The first instruction of a kernel that a host answers on hardware, if the kernel has not spoken
    # its interface before.  Flags hold the GuestExit and the direction, gpa the leaf, port or MSR.
    EXIT = 13
    CHECKPOINT = 14  # a moment to which the guest can go back
    REWIND = 15  # it went back: all is as it was at the record whose number is in gpa
    SNAPSHOT = 16  # the VM was saved; what is restored from it goes on after this record


class GuestExit(Named):
    """Instructions that a host has to answer."""

    IDENTIFY = 0  # CPUID
    PORT = 1
    REGISTER = 2  # an MSR


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


# What `cvmlab events` calls a host access to private memory that a debuggable VM allows.  In the ring
# it is of kind HOST_FAULT; everywhere else it is no fault.
ALLOWED_ACCESS = "allowed-access"
EVENT_WORDS = (*(kind.word for kind in Kind if kind is not Kind.NONE), ALLOWED_ACCESS)


def event_word(record: np.void) -> str:
    """Return what *record* is, as `cvmlab events` prints it: one of EVENT_WORDS."""
    kind = Kind(int(record["kind"]))
    is_allowed = kind is Kind.HOST_FAULT and int(record["verdict"]) == Verdict.ALLOW
    return ALLOWED_ACCESS if is_allowed else kind.word


# Records, or some of their fields, each an array in one piece: that is faster to look at.
Fields = NDArray[np.void] | Mapping[str, NDArray[Any]]


def is_event(records: Fields, *words: str) -> NDArray[np.bool_]:
    """Say which of *records* are one of *words*, which are of EVENT_WORDS."""
    kinds = {Kind.HOST_FAULT if word == ALLOWED_ACCESS else Kind.of(word) for word in words}
    if len(kinds) == 1:
        chosen: NDArray[np.bool_] = records["kind"] == kinds.pop()
    else:
        chosen = np.isin(records["kind"], list(kinds))
    faults, allowed = Kind.HOST_FAULT.word in words, ALLOWED_ACCESS in words
    if faults != allowed:
        # Few records are host accesses: read the verdict of those only.
        at = np.flatnonzero(records["kind"] == Kind.HOST_FAULT)
        chosen[at] = (records["verdict"][at] == Verdict.ALLOW) == allowed
    return chosen


def host_faults(records: Fields) -> NDArray[np.bool_]:
    """Say which of *records* are host faults: host accesses that were not allowed."""
    return is_event(records, Kind.HOST_FAULT.word)


CHANGING = frozenset({Kind.ACCEPT, Kind.CONVERT, Kind.DISCARD, Kind.POISON, Kind.LOAD})


def changed_pages(records: Fields) -> NDArray[np.bool_]:
    """Say which of *records* changed the state of pages."""
    changed: NDArray[np.bool_] = np.isin(records["kind"], list(CHANGING))
    changed &= records["from"] != records["to"]
    return changed


def standing(records: NDArray[np.void]) -> NDArray[np.void]:
    """Return *records* (in order of seq) without those that a rewind has undone."""
    rewinds = records[records["kind"] == Kind.REWIND]
    if not len(rewinds):
        return records
    stands = np.ones(len(records), np.bool_)
    for rewind in rewinds:
        after = np.searchsorted(records["seq"], rewind["gpa"], side="right")
        stands[after : np.searchsorted(records["seq"], rewind["seq"])] = False
    return records[stands]


def pieces(records: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
    """Yield *records* cut behind each checkpoint and each rewind."""
    marks = np.flatnonzero(np.isin(records["kind"], [Kind.CHECKPOINT, Kind.REWIND]))
    yield from np.split(records, marks + 1)


class Past(Generic[T]):
    """Values that belong to a journal which is read piece by piece, as they were at its checkpoints."""

    def __init__(self) -> None:
        self._kept: dict[int, T] = {}

    def after(self, record: np.void, value: T) -> T:
        """Return *value* after *record*, which ends a piece: a rewind gives that of its checkpoint."""
        if record["kind"] == Kind.CHECKPOINT:
            self._kept[int(record["seq"])] = copy(value)
        elif record["kind"] == Kind.REWIND:
            return copy(self._kept.get(int(record["gpa"]), value))
        return value


def header_fault(header: np.void) -> str | None:
    """Return why *header* (dtype SHARED) is not that of a ring in the format read here, or None."""
    if header["magic"] != SHARED_MAGIC:
        return "the event ring has no header yet"
    if header["version"] != SHARED_VERSION:
        return f"the event ring has version {header['version']}, not {SHARED_VERSION}"
    if header["record_size"] != RECORD.itemsize:
        return f"the event ring has records of {header['record_size']} bytes, not {RECORD.itemsize}"
    return None


def views(ring: memoryview) -> tuple[np.void, NDArray[np.void]]:
    """Return header and records of a mapped ring file; they share its memory."""
    header = np.frombuffer(ring, SHARED, 1)
    return header[0], np.frombuffer(ring, RECORD, offset=RECORDS_OFFSET)


def who(record: np.void, devices: Mapping[int, str] | None = None) -> str:
    """Name the actor: ``vcpu 0``, ``device virtio-blk0``, ``gdb``."""
    actor, vcpu, device = Actor(int(record["actor"])), int(record["vcpu"]), int(record["device"])
    if actor is Actor.VCPU and vcpu != NO_VCPU:
        return f"vcpu {vcpu}"
    if device != NO_DEVICE:
        return named_actor(actor.word, (devices or {}).get(device, f"#{device}"))
    return actor.word


def named_actor(actor: str, name: str | None) -> str:
    """Return ``device net0``; of an actor that has no name but its kind, ``monitor``."""
    return actor if name is None or name == actor else f"{actor} {name}"


def describe(
    record: np.void,
    devices: Mapping[int, str] | None = None,
    function: str | None = None,
) -> str:
    """Describe a record in one line.

    *devices* maps its device index to a name; *function* is the one to blame.
    """
    text = _DESCRIBE[Kind(int(record["kind"]))](record, who(record, devices))
    if function is not None:
        text = f"{text} in {function}"
    return f"{int(record['vtime_ns']) / 1e9:12.6f} {text}"


def _step(record: np.void, actor: str) -> str:
    kind, before, after = Kind(int(record["kind"])), _state(record, "from"), _state(record, "to")
    return f"{actor} {kind.word} {_range(record)} {before} -> {after}{_rip(record)}"


def _host_fault(record: np.void, actor: str) -> str:
    way = "wrote" if record["flags"] & FLAG_WRITE else "read"
    what = "CPU state" if record["flags"] & FLAG_STATE else _page(record)
    if record["pages"] > 1:  # whoever was given them all may read any of them
        what = f"{what}, {int(record['pages'])} pages"
    return f"{actor} {way} {what}: {_verdict(record)}{_rip(record)}"


def _guest_fault(record: np.void, actor: str) -> str:
    return f"{actor} faulted on {_page(record)}{_rip(record)}"


def _violation(record: np.void, actor: str) -> str:
    rule = RefusalCode(int(record["refusal"])).word
    return f"{actor} was refused {_range(record)}: {rule}{_rip(record)}"


def _phase(record: np.void, _: str) -> str:
    return f"phase {Phase(int(record['flags'])).word} begins"


def _invalidate(record: np.void, actor: str) -> str:
    return f"{actor} invalidate {'end' if record['flags'] else 'start'} {_range(record)}"


def _policy(record: np.void, actor: str) -> str:
    return f"{actor} set the access policy to {_verdict(record)}"


def exit_name(record: np.void) -> str:
    """Return the instruction of a record of kind EXIT: ``CPUID 0x1``, ``RDMSR 0x8b``, ``OUT 0x43``."""
    number, flags = int(record["gpa"]), int(record["flags"])
    names = _EXIT_NAMES.get(flags >> FLAG_EXIT_SHIFT, ("instruction", "instruction"))
    return f"{names[flags & FLAG_WRITE]} {number:#x}"


_EXIT_NAMES: Mapping[int, tuple[str, str]] = {
    GuestExit.IDENTIFY: ("CPUID", "CPUID"),
    GuestExit.PORT: ("IN", "OUT"),
    GuestExit.REGISTER: ("RDMSR", "WRMSR"),
}


def _exit(record: np.void, actor: str) -> str:
    return f"{actor} executed {exit_name(record)}, which a host answers on hardware{_rip(record)}"


_DESCRIBE: Mapping[Kind, Callable[[np.void, str], str]] = {
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
    Kind.RESET: lambda _record, _actor: "the guest was reset: all pages are pending",
    Kind.INVALIDATE: _invalidate,
    Kind.POLICY: _policy,
    Kind.EXIT: _exit,
    Kind.CHECKPOINT: lambda record, _actor: f"checkpoint, record {int(record['seq'])}",
    Kind.REWIND: lambda record, _actor: (
        f"rewound to record {int(record['gpa'])}, {int(record['pages'])} pages"
    ),
    Kind.SNAPSHOT: lambda record, _actor: f"snapshot, record {int(record['seq'])}",
}


def _state(record: np.void, field: str) -> str:
    return PageState(int(record[field])).word


def _page(record: np.void) -> str:
    return f"{_state(record, 'from')} {int(record['gpa']):#x}"


def _range(record: np.void) -> str:
    pages = int(record["pages"])
    return str(GpaRange(int(record["gpa"]), pages * PAGE_SIZE)) if pages else "nothing"


def _verdict(record: np.void) -> str:
    return Verdict(int(record["verdict"])).word


def _rip(record: np.void) -> str:
    rip = int(record["rip"])
    return f" at {rip:#x}" if rip else ""
