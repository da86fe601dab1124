# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal as messages for other machines: which records must arrive, and what is summed up.  Pure.

Faults, refused requests, phases and resets are sent one by one and must arrive.  Acceptance and
conversions, which may be a hundred thousand a second, are summed up.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cvmlab.phases import count
from cvmlab.records import NO_DEVICE, NO_VCPU, Actor, Kind, Phase, Verdict
from cvmlab.states import Counter, PageState, Refusal
from cvmlab.table import PageCounts


Records = npt.NDArray[np.void]
BATCH_RECORDS = 250  # in one message: some 50 kB
_TOPICS: Mapping[str, tuple[Kind, ...]] = {
    "event/fault": (Kind.HOST_FAULT, Kind.GUEST_FAULT, Kind.VIOLATION),
    "event/phase": (Kind.PHASE, Kind.RESET),
}


@dataclass(frozen=True, slots=True)
class Message:
    """What is published under ``cvmlab/<host>/<vm>/``; *promised* ones are delivered at least once."""

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
        "kind": kind.word,
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
        values["refusal"] = Refusal(int(record["refusal"])).word
    if kind is Kind.PHASE:
        values["phase"] = Phase(int(record["flags"])).word
    return values


def devices_in(records: Records) -> set[int]:
    """Return the numbers of devices whose names promised() will want."""
    chosen = records[np.isin(records["kind"], _TOPICS["event/fault"])]
    return {number for number in np.unique(chosen["device"]).tolist() if number != NO_DEVICE}


def promised(records: Records, devices: Mapping[int, str]) -> Iterator[Message]:
    """Yield the messages that must arrive, in the order of the journal, topic by topic."""
    for topic, kinds in _TOPICS.items():
        chosen = records[np.isin(records["kind"], kinds)]
        for first in range(0, len(chosen), BATCH_RECORDS):
            batch = chosen[first : first + BATCH_RECORDS]
            events = [event_values(record, devices) for record in batch]
            yield Message(topic, encoded({"events": events}), promised=True)


def summed_up(records: Records) -> Message:
    """Return what the records come to, for a graph: no promise that it arrives."""
    counted = count(records)
    values = {
        "first": int(records["seq"][0]),
        "last": int(records["seq"][-1]),
        "vtime": int(records["vtime_ns"][-1]) / 1e9,
        "accepted": counted.accepted,
        "to_shared": counted.to_shared,
        "to_private": counted.to_private,
        "host_faults": counted.host_faults,
    }
    return Message("event/memory", encoded(values), promised=False)


def pages_message(counts: PageCounts, counters: Mapping[Counter, int]) -> Message:
    """Return pages by state, and all that was counted since launch."""
    pages = {state.word: getattr(counts, state.word) for state in PageState}
    counted = {counter.name.lower(): value for counter, value in counters.items()}
    values = {"pages": pages, "counters": counted}
    return Message("pages", encoded(values), promised=False, retained=True)


def state_message(state: str, **more: object) -> Message:
    """Return the retained state: ``running``, ``ended``, or ``lost`` (the last will)."""
    values = {"state": state, "emulated": True, **more}
    return Message("state", encoded(values), promised=True, retained=True)


def encoded(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
