# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a journal that match conditions, to assert on.  Pure.

vm.select(kind="convert", actor="vcpu", phase="kernel").assert_at_most(pages=512)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import numpy.typing as npt

from cvmlab.base.choices import choose
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.records import EVENT_WORDS, Actor, Kind, Phase, describe, is_event


Records = npt.NDArray[np.void]
LINES_SHOWN = 8


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """Records, oldest first, with the phase of each; *conditions* are those that they meet."""

    records: Records
    phases: npt.NDArray[np.int64]
    devices: Mapping[int, str]
    conditions: tuple[str, ...] = ()

    @classmethod
    def all_of(cls, records: Records, devices: Mapping[int, str]) -> Self:
        """Choose all of a whole journal; *devices* names the devices in it."""
        return cls(records, _phase_of_each(records), devices)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def pages(self) -> int:
        """The pages of all records; one that was changed twice counts twice."""
        return int(self.records["pages"].sum(dtype=np.int64))

    def where(
        self,
        *,
        kind: str | None = None,
        actor: str | None = None,
        device: str | None = None,
        within: GpaRange | str | None = None,
        phase: str | None = None,
    ) -> "Selection":
        """Return those of one kind, actor, device and phase that touch a range.

        Words are those that `cvmlab events` prints.  Raise ConfigError for an unknown word; any
        name of a device is accepted, as a device becomes known only when it is first seen.
        """
        chosen = np.ones(len(self.records), bool)
        if phase is not None:
            number = Phase.of(choose("phase", phase, _words(Phase)))
            chosen &= self.phases == number
        if kind is not None:
            chosen &= is_event(self.records, choose("kind", kind, EVENT_WORDS))
        if actor is not None:
            chosen &= self.records["actor"] == Actor.of(choose("actor", actor, _words(Actor)))
        if device is not None:
            numbers = [number for number, name in self.devices.items() if name == device]
            chosen &= np.isin(self.records["device"], numbers)
        if within is not None:
            chosen &= _touches(self.records, _range(within))
        given = {"kind": kind, "actor": actor, "device": device, "within": within, "phase": phase}
        said = [f"{name} {value}" for name, value in given.items() if value is not None]
        return Selection(
            self.records[chosen], self.phases[chosen], self.devices, (*self.conditions, *said)
        )

    def lines(self, limit: int | None = LINES_SHOWN) -> list[str]:
        """Return a line for each of the first *limit* records, as `cvmlab events` prints them."""
        lines = [describe(record, self.devices) for record in self.records[:limit]]
        if len(self) > len(lines):
            lines.append(f"             and {len(self) - len(lines)} more")
        return lines

    def assert_empty(self) -> None:
        """Raise AssertionError, with the first records, if there are any."""
        if len(self):
            raise AssertionError(self._say("none was to be there"))

    def assert_at_most(self, *, pages: int | None = None, records: int | None = None) -> None:
        """Raise AssertionError, with the first records, if there are more pages or records."""
        if pages is not None and self.pages > pages:
            raise AssertionError(self._say(f"{self.pages} pages, at most {pages} were to be"))
        if records is not None and len(self) > records:
            raise AssertionError(self._say(f"at most {records} were to be there"))

    def _say(self, expected: str) -> str:
        number = f"{len(self)} event{'s' if len(self) != 1 else ''}"
        what = f" ({', '.join(self.conditions)})" if self.conditions else ""
        return "\n".join([f"{number}{what}: {expected}", *self.lines()])


def _words(of: type[Actor] | type[Phase]) -> list[str]:
    return [member.word for member in of]


def _range(within: GpaRange | str) -> GpaRange:
    return within if isinstance(within, GpaRange) else GpaRange.parse(within)


def _touches(records: Records, within: GpaRange) -> npt.NDArray[np.bool_]:
    # A fault has no number of pages; it touches one.
    size = np.maximum(records["pages"].astype(np.uint64), 1) * np.uint64(PAGE_SIZE)
    end = records["gpa"] + size
    touches: npt.NDArray[np.bool_] = (records["gpa"] < np.uint64(within.end)) & (
        end > np.uint64(within.start)
    )
    return touches


def _phase_of_each(records: Records) -> npt.NDArray[np.int64]:
    """Return the phase of each record; before the first mark it is the launch."""
    marks = np.flatnonzero(records["kind"] == Kind.PHASE)
    names = np.concatenate([[int(Phase.LAUNCH)], records["flags"][marks].astype(np.int64)])
    at = np.searchsorted(marks, np.arange(len(records)), side="right")
    phases: npt.NDArray[np.int64] = names[at]
    return phases
