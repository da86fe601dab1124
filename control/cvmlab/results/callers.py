# SPDX-License-Identifier: GPL-2.0-or-later
"""Whom to blame for a record: the first function in its call chain that decides anything.  Pure.

The innermost functions of a chain are often thin: they only carry out a request, and are the same
for all of them.  A profile's row lists them; what called them is blamed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final

from msgspec import Struct


CALLERS_KEPT: Final = 24  # of each chain, in result.json


class NamedChain(Struct, frozen=True):
    """The names of a chain of calls, ``function+0x12``, the innermost first.

    *scanned* is the index of the first one that a scan of the stack has found: from there on it is
    a guess.
    """

    calls: tuple[str, ...]
    scanned: int | None = None


@dataclass(frozen=True)
class Callers:
    """The chains of a journal, by the number in a record's ``stack``.

    *thin* are patterns for names of functions that are not blamed; a ``*`` stands for anything.
    """

    chains: Mapping[int, NamedChain] = field(default_factory=dict)
    thin: tuple[str, ...] = ()

    def blamed(self, stack: int, leaf: str | None) -> str | None:
        """Return the call to blame; *leaf* is the name of the record's own instruction."""
        chain = self.chains.get(stack)
        if chain is None:
            return leaf
        at = self._first[stack]
        return chain.calls[at] if at is not None else leaf or chain.calls[0]

    def above(self, stack: int) -> tuple[str, ...]:
        """Return the functions that led to the one to blame, the nearest first."""
        chain = self.chains.get(stack)
        at = self._first.get(stack)
        if chain is None or at is None:
            return ()
        return tuple(function_of(call) for call in chain.calls[at + 1 :][:CALLERS_KEPT])

    def guessed(self, stack: int) -> int | None:
        """Return the index in above() from which on it is a guess; None: nothing of it is."""
        chain, at = self.chains.get(stack), self._first.get(stack)
        if chain is None or at is None or chain.scanned is None:
            return None
        first = max(chain.scanned - at - 1, 0)
        return first if first < len(self.above(stack)) else None

    @cached_property
    def _first(self) -> Mapping[int, int | None]:
        return {
            number: next(
                (at for at, call in enumerate(chain.calls) if not self._is_thin(call)), None
            )
            for number, chain in self.chains.items()
        }

    def _is_thin(self, call: str) -> bool:
        name = function_of(call)
        return any(fnmatchcase(name, pattern) for pattern in self.thin)


NO_CALLERS: Final = Callers()


def function_of(call: str) -> str:
    """Return the function of ``function+0x12`` or ``function+0x12 [module]``."""
    name, plus, rest = call.partition("+")
    module = rest.partition(" ")[2]
    return f"{name} {module}" if plus and module else name
