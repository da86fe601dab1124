# SPDX-License-Identifier: GPL-2.0-or-later
"""How a service fails on purpose, so that a guest's agent and its verifier can be tested.  Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError


_MAX_STATUS: Final = 0xFFFF_FFFF


class QuoteFaultKind(StrEnum):
    """What is wrong with an answer."""

    ERROR = "error"  # it is a status, and nothing else
    TRUNCATE = "truncate"  # half of the quote or report is missing
    SLOW = "slow"  # it comes late
    WRONG_KEY = "wrong-key"  # the signature is not by the key of the certificate
    REPLAY = "replay"  # it is the first quote or report again
    NEVER = "never"  # there is none


_NUMBERED: Final = {
    QuoteFaultKind.ERROR: "a status, such as error:22",
    QuoteFaultKind.SLOW: "seconds, such as slow:5",
}


@dataclass(frozen=True, slots=True)
class QuoteFault:
    """A fault; ``number`` is a status or seconds."""

    kind: QuoteFaultKind
    number: float = 0

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the fault that ``--quote-fault`` names; raise ConfigError."""
        word, colon, number = text.partition(":")
        kind = QuoteFaultKind(choose("--quote-fault", word, QuoteFaultKind))
        if bool(colon) != (kind in _NUMBERED):
            wanted = f"needs {_NUMBERED[kind]}" if kind in _NUMBERED else "takes no number"
            raise ConfigError(f"--quote-fault {text}: {kind} {wanted}", hint=_HINT)
        return cls(kind, _number(kind, text, number) if colon else 0)

    @property
    def status(self) -> int | None:
        """The status to answer instead; None if the fault is another one."""
        return int(self.number) if self.kind is QuoteFaultKind.ERROR else None

    @property
    def delay_s(self) -> float:
        """How long an answer takes; infinite if it never comes."""
        delays = {QuoteFaultKind.SLOW: self.number, QuoteFaultKind.NEVER: math.inf}
        return delays.get(self.kind, 0)

    def altering(self) -> Callable[[bytes], bytes]:
        """Return what makes of each quote or report the one that is answered."""
        first: list[bytes] = []

        def again(evidence: bytes) -> bytes:
            if not first:
                first.append(evidence)
            return first[0]

        changes: dict[QuoteFaultKind, Callable[[bytes], bytes]] = {
            QuoteFaultKind.TRUNCATE: lambda evidence: evidence[: len(evidence) // 2],
            QuoteFaultKind.REPLAY: again,
        }
        return changes.get(self.kind, lambda evidence: evidence)


_HINT: Final = "error:N, truncate, slow:S, wrong-key, replay or never"


def _number(kind: QuoteFaultKind, text: str, number: str) -> float:
    try:
        value = int(number, 0) if kind is QuoteFaultKind.ERROR else float(number)
    except ValueError:
        value = -1
    limit = _MAX_STATUS if kind is QuoteFaultKind.ERROR else math.inf
    if not 0 < value <= limit or value == math.inf:
        raise ConfigError(f"--quote-fault {text}: {kind} needs {_NUMBERED[kind]}", hint=_HINT)
    return value
