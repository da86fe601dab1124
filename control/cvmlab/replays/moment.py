# SPDX-License-Identifier: GPL-2.0-or-later
"""A moment of a guest's life at which it is to be stopped, as people write it.  Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cvmlab.base.errors import ConfigError
from cvmlab.memory.ranges import parse_size


EVENTS = ("accept", "convert", "fault")
_HINT = (
    "say convert, accept or fault, each with or without a GPA, record N, a function's name, or its "
    "address"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """An event of *event*'s kind (of the page at *gpa*, if that is given), a journal record, or an
    instruction; exactly one of them."""

    text: str
    event: str | None = None
    gpa: int | None = None
    record: int | None = None
    pc: int | None = None

    def arguments(self) -> dict[str, object]:
        """Return the arguments of ``restricted-memory-stop-at``."""
        named = {"event": self.event, "gpa": self.gpa, "record": self.record, "pc": self.pc}
        return {name: value for name, value in named.items() if value is not None}


def parse_moment(text: str, address_of: Callable[[str], int | None]) -> Moment:
    """Read *text*; *address_of* finds a function of the guest's by its name, None: there is none.

    :raise ConfigError: it makes no sense, or there is no such function.
    """
    words = text.split()
    match words:
        case [event] if event in EVENTS:
            return Moment(text, event=event)
        case [event, gpa] if event in EVENTS:
            return Moment(text, event=event, gpa=parse_size(gpa))
        case ["record", number]:
            return Moment(text, record=_record(parse_size(number)))
        case [address] if re.fullmatch(r"0x[0-9a-fA-F]+", address):
            return Moment(text, pc=int(address, 16))
        case [name] if re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return Moment(text, pc=_function(name, address_of))
        case _:
            raise ConfigError(f"{text!r} is no moment to stop at", hint=_HINT)


def _record(number: int) -> int:
    if number < 1:
        raise ConfigError("records are numbered from 1", hint=_HINT)
    return number


def _function(name: str, address_of: Callable[[str], int | None]) -> int:
    found = address_of(name)
    if found is None:
        raise ConfigError(f"the guest has no function {name!r} that is known", hint=_HINT)
    return found
