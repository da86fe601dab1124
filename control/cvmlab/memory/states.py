# SPDX-License-Identifier: GPL-2.0-or-later
"""Page states, what can happen to a page, and the rules that say what follows.

The rules are data: plugin/core/transitions.toml, which the plugin compiles and this module loads.
Numbers are those of plugin/core/rmem.h, because both sides read them from shared files.  Model is
the core's twin in Python: same rules, same refusals, same counters.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from cvmlab.base.errors import ConfigError
from cvmlab.base.resources import plugin_dir
from cvmlab.memory.measures import MEASURES


if TYPE_CHECKING:
    from numpy.typing import NDArray


STATE_MASK = 0x03
LAUNCH_FLAG = 0x10  # placed by the loader before the guest ran
STALE_FLAG = 0x20  # has changed sides and was not reached there yet: will read as noise


class Named(IntEnum):
    """A closed set with a number (ABI) and a word (rules, QMP, command line)."""

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")

    @classmethod
    def of(cls, word: str) -> Self:
        """Return the member that is written *word*; raise KeyError."""
        return cls[word.upper().replace("-", "_")]


class PageState(Named):
    PENDING = 0  # private, not accepted by the guest yet
    PRIVATE = 1  # private and accepted
    SHARED = 2  # host and guest may touch it
    POISONED = 3  # guest touch is a machine check, host touch an error


class Event(Named):
    TOUCH = 0  # a guest CPU touches it
    ACCEPT = 1  # acceptance asked for by guest or host
    TO_SHARED = 2
    TO_PRIVATE = 3
    DISCARD = 4  # punch hole
    POISON = 5
    LOAD = 6  # the loader writes the launch image


class RefusalCode(Named):
    OK = 0
    ALREADY_ACCEPTED = 1
    NOT_PRIVATE = 2
    PAGE_POISONED = 3
    OUT_OF_RANGE = 4  # not a rule: no such page, or no such event
    BY_POLICY = 5  # not a rule: the host was told to refuse


COUNTER_SLOTS = 32  # RMEM_COUNTERS
COUNTED_AS = {  # the measure that counts the pages an event changed
    Event.TOUCH: "accepted",
    Event.ACCEPT: "accepted",
    Event.TO_SHARED: "to_shared",
    Event.TO_PRIVATE: "to_private",
    Event.DISCARD: "discarded",
    Event.POISON: "poisoned",
    Event.LOAD: "loaded",
}


class Layout(StrEnum):
    """Where content lives: one file, or a private and a shared one."""

    IN_PLACE = "in-place"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Rule:
    """One cell: the next state, or, if refused, the state the page stays in."""

    next: PageState
    refusal: RefusalCode = RefusalCode.OK


@dataclass(frozen=True, slots=True)
class Rules:
    """One profile's rules: ``cells[event][state]``."""

    profile: str
    layout: Layout
    cells: tuple[tuple[Rule, ...], ...]
    scrambles: bool = False

    def judge(self, state: PageState, event: Event) -> Rule:
        return self.cells[event][state]


_CELL_WORDS = {
    **{state.word: state for state in PageState},
    **{
        refusal.word: refusal
        for refusal in RefusalCode
        if refusal not in (RefusalCode.OK, RefusalCode.OUT_OF_RANGE, RefusalCode.BY_POLICY)
    },
}


def parse_rules(text: str) -> dict[str, Rules]:
    """Read the text of a transitions.toml; raise ConfigError naming what is at fault.

    What is refused here, and in which words, is what gen-transitions.py refuses, too.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(str(fault)) from fault
    if set(document) != {"default", "profiles"}:
        raise ConfigError("the tables must be [default] and [profiles.NAME]")
    odd = document["default"].keys() ^ {event.word for event in Event}
    if odd:
        raise ConfigError(f"default: event {min(odd)!r} is missing or unknown")
    if not document["profiles"]:
        raise ConfigError("there is no profile")
    return {
        name: _profile_rules(name, own, document["default"])
        for name, own in document["profiles"].items()
    }


def _profile_rules(name: str, own: Mapping[str, Any], default: Mapping[str, Any]) -> Rules:
    unknown = own.keys() - {"layout", "scrambles"} - {event.word for event in Event}
    if unknown:
        raise ConfigError(f"profile {name}: unknown key {min(unknown)!r}")
    if own.get("layout") not in tuple(Layout):
        raise ConfigError(f"profile {name}: layout must be one of {', '.join(Layout)}")
    scrambles = own.get("scrambles", False)
    if not isinstance(scrambles, bool):
        raise ConfigError(f"profile {name}: scrambles must be true or false")
    rows = {**default, **own}
    cells = tuple(_row(f"profile {name}, {event.word}", rows[event.word]) for event in Event)
    return Rules(name, Layout(own["layout"]), cells, scrambles)


def _row(where: str, words: Any) -> tuple[Rule, ...]:
    if not isinstance(words, list) or len(words) != len(PageState):
        states = ", ".join(state.word for state in PageState)
        raise ConfigError(f"{where}: need one cell for each of {states}")
    return tuple(_rule(where, state, word) for state, word in zip(PageState, words, strict=True))


def _rule(where: str, state: PageState, word: Any) -> Rule:
    cell = _CELL_WORDS.get(word) if isinstance(word, str) else None
    match cell:
        case PageState():
            return Rule(cell)
        case RefusalCode():
            return Rule(state, cell)
    raise ConfigError(f"{where}, {state.word}: {word!r} is neither a state nor a refusal")


@cache
def profiles() -> Mapping[str, Rules]:
    """Return the rules of every profile, by name."""
    path = plugin_dir() / "core" / "transitions.toml"
    return parse_rules(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Change:
    """Pages ``[first, first + count)`` took a step, which may leave them where they were."""

    first: int
    count: int
    before: PageState
    after: PageState


@dataclass(frozen=True, slots=True)
class RefusedChange:
    """Nothing was changed: ``page`` is the first that stands in the way."""

    refusal: RefusalCode
    page: int


@final
class Model:
    """What the core does, in Python, on a table of its own.

    Not the state of any VM: that is the plugin's alone (design D4).
    """

    def __init__(self, rules: Rules, pages: int) -> None:
        self.rules = rules
        self.table: NDArray[np.uint8] = np.zeros(pages, np.uint8)
        self.counters = dict.fromkeys(MEASURES.slots, 0)
        self.generation = 0

    @property
    def page_counts(self) -> dict[PageState, int]:
        counted = np.bincount(self.table & STATE_MASK, minlength=len(PageState))
        return {state: int(counted[state]) for state in PageState}

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, PageState]]:
        """Yield (first, count, state) for each run of equal state in the range."""
        states = self.table[first : first + count] & STATE_MASK
        starts = [0, *(np.flatnonzero(np.diff(states)) + 1).tolist(), len(states)]
        for start, end in pairwise(starts):
            if end > start:
                yield first + start, end - start, PageState(int(states[start]))

    def touch(self, page: int) -> PageState:
        """A guest CPU touches *page*: return the state it found."""
        found = PageState(int(self.table[page]) & STATE_MASK)
        rule = self.rules.judge(found, Event.TOUCH)
        if found is PageState.PENDING and rule.refusal is RefusalCode.OK:
            self._take(Change(page, 1, found, rule.next), Event.TOUCH)
        return found

    def check(self, first: int, count: int, event: Event) -> RefusedChange | None:
        """Say what would refuse *event* on the range, or return None."""
        pages = len(self.table)
        if first > pages or first + count > pages:
            return RefusedChange(RefusalCode.OUT_OF_RANGE, max(first, pages))
        for start, _, state in self.runs(first, count):
            refusal = self.rules.judge(state, event).refusal
            if refusal is not RefusalCode.OK:
                return RefusedChange(refusal, start)
        return None

    def apply(self, first: int, count: int, event: Event) -> tuple[Change, ...] | RefusedChange:
        """Let *event* happen to all of the range or, if any page refuses, to nothing."""
        refused = self.check(first, count, event)
        if refused is not None:
            return refused
        changes = tuple(
            Change(start, length, state, self.rules.judge(state, event).next)
            for start, length, state in self.runs(first, count)
        )
        for change in changes:
            self._take(change, event)
        return changes

    def settle(self, first: int, count: int = 1) -> None:
        """Somebody has reached these pages: they are stale no more."""
        self.table[first : first + count] &= 0xFF ^ STALE_FLAG

    def reset(self) -> None:
        """Every page is pending again, as after a reboot."""
        self.table[:] = 0
        self.counters["resets"] += 1
        self.generation += 1

    def _take(self, change: Change, event: Event) -> None:
        span = slice(change.first, change.first + change.count)
        if event is Event.LOAD:
            self.table[span] = change.after | LAUNCH_FLAG
        elif event is Event.DISCARD or change.after is not change.before:
            kept = self.table[span] & STALE_FLAG if event in (Event.TOUCH, Event.ACCEPT) else 0
            self.table[span] = kept | change.after | self._mark(change, event)
        if change.after is change.before:
            return
        self.counters[COUNTED_AS[event]] += change.count
        if (change.before, change.after) != (PageState.PENDING, PageState.PRIVATE):
            self.generation += 1

    def _mark(self, change: Change, event: Event) -> int:
        """Return the flag of a page that a conversion has moved to the other side."""
        moved = (change.before is PageState.SHARED) != (change.after is PageState.SHARED)
        converts = event in (Event.TO_SHARED, Event.TO_PRIVATE)
        return STALE_FLAG if self.rules.scrambles and converts and moved else 0
