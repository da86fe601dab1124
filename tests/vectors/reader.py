# SPDX-License-Identifier: GPL-2.0-or-later
"""transitions.json as values: what must follow from each event, for the model and the core."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cvmlab.memory.measures import MEASURES
from cvmlab.memory.states import Event, PageState, RefusalCode


_FILE = Path(__file__).with_name("transitions.json")


@dataclass(frozen=True, slots=True)
class Vector:
    """One page in ``state``, one ``event``, and all that must follow."""

    profile: str
    event: Event
    state: PageState
    after: PageState
    refusal: RefusalCode
    counted: str | None  # the name of a measure
    takes_access: bool

    @classmethod
    def read(cls, profile: str, cell: Mapping[str, Any]) -> Self:
        state, refusal = PageState.of(cell["state"]), cell.get("refusal")
        return cls(
            profile=profile,
            event=Event.of(cell["event"]),
            state=state,
            after=state if refusal else PageState.of(cell["next"]),
            refusal=RefusalCode.of(refusal or "ok"),
            counted=(cell["counted"] or "").replace("-", "_") or None,
            takes_access=cell["takes_access"],
        )

    @property
    def name(self) -> str:
        return f"{self.profile}-{self.event.word}-{self.state.word}"

    @property
    def counters(self) -> dict[str, int]:
        """All counters after the event, if all were 0 before."""
        return {name: int(name == self.counted) for name in MEASURES.slots}


def transition_vectors() -> list[Vector]:
    profiles = json.loads(_FILE.read_text(encoding="utf-8"))["profiles"]
    return [Vector.read(name, cell) for name, table in profiles.items() for cell in table["cells"]]


def layouts() -> dict[str, str]:
    """Return the layout of each profile."""
    profiles = json.loads(_FILE.read_text(encoding="utf-8"))["profiles"]
    return {name: table["layout"] for name, table in profiles.items()}
