# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal as messages for other machines: which records must arrive, and which are summed up.

Faults, allowed accesses, refused requests, phases and resets are sent one by one and must arrive.
Acceptances and conversions, which may be a hundred thousand a second, are summed up.  Pure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmlab.memory.counting import count
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import (
    ALLOWED_ACCESS,
    NO_DEVICE,
    NO_VCPU,
    Actor,
    Kind,
    Phase,
    Verdict,
    event_word,
    is_event,
)
from cvmlab.memory.states import PageState, RefusalCode
from cvmlab.memory.table import PageCounts


Records = npt.NDArray[np.void]
BATCH_RECORDS = 250  # in one message: some 50 kB
_FAULT, _ALLOWED = "event/fault", "event/allowed"
_TOPICS: Mapping[str, tuple[str, ...]] = {  # to words of events
    _FAULT: (Kind.HOST_FAULT.word, Kind.GUEST_FAULT.word, Kind.VIOLATION.word),
    _ALLOWED: (ALLOWED_ACCESS,),
    "event/phase": (Kind.PHASE.word, Kind.RESET.word),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A message under ``cvmlab/<host>/<vm>/``; *promised* ones are delivered at least once."""

    topic: str
    payload: bytes
    promised: bool
    retained: bool = False


def event_values(record: np.void, devices: Mapping[int, str]) -> dict[str, Any]:
    """Return one record as JSON has it; *devices* maps the index in a record to a device's name."""
    kind, device, vcpu = Kind(int(record["kind"])), int(record["device"]), int(record["vcpu"])
    values: dict[str, Any] = {
        "seq": int(record["seq"]),
        "vtime": int(record["vtime_ns"]) / 1e9,
        "kind": event_word(record),
        "actor": Actor(int(record["actor"])).word,
        "vcpu": None if vcpu == NO_VCPU else vcpu,
        "device": None if device == NO_DEVICE else devices.get(device, f"#{device}"),
        "gpa": int(record["gpa"]),
        "pages": int(record["pages"]),
        "from": PageState(int(record["from"])).word,
        "to": PageState(int(record["to"])).word,
        "rip": int(record["rip"]) or None,
        "flags": int(record["flags"]),
    }
    if kind in (Kind.HOST_FAULT, Kind.POLICY):
        values["verdict"] = Verdict(int(record["verdict"])).word
    if kind is Kind.VIOLATION:
        values["refusal"] = RefusalCode(int(record["refusal"])).word
    if kind is Kind.PHASE:
        values["phase"] = Phase(int(record["flags"])).word
    return values


def devices_in(records: Records) -> set[int]:
    """Return the numbers of the devices whose names promised() needs."""
    chosen = records[is_event(records, *_TOPICS[_FAULT], *_TOPICS[_ALLOWED])]
    return {number for number in np.unique(chosen["device"]).tolist() if number != NO_DEVICE}


def promised(records: Records, devices: Mapping[int, str]) -> Iterator[Message]:
    """Yield the messages that must arrive, in the order of the journal, topic by topic."""
    for topic, words in _TOPICS.items():
        chosen = records[is_event(records, *words)]
        for first in range(0, len(chosen), BATCH_RECORDS):
            batch = chosen[first : first + BATCH_RECORDS]
            events = [event_values(record, devices) for record in batch]
            yield Message(topic, encoded({"events": events}), promised=True)


def summed_up(records: Records, measures: Measures = MEASURES) -> Message:
    """Return the sums of the records, for a graph; this message may be lost."""
    values = {
        "first": int(records["seq"][0]),
        "last": int(records["seq"][-1]),
        "vtime": int(records["vtime_ns"][-1]) / 1e9,
        **count(records, measures.per_phase),
    }
    return Message("event/memory", encoded(values), promised=False)


def pages_message(counts: PageCounts, counters: Mapping[str, int]) -> Message:
    """Return pages by state, and all that was counted since launch."""
    pages = {state.word: getattr(counts, state.word) for state in PageState}
    values = {"pages": pages, "counters": dict(counters)}
    return Message("pages", encoded(values), promised=False, retained=True)


def state_message(state: str, **more: object) -> Message:
    """Return the retained state: ``running``, ``ended``, or ``lost`` (the last will)."""
    values = {"state": state, "emulated": True, **more}
    return Message("state", encoded(values), promised=True, retained=True)


def encoded(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
