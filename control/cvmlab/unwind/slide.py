# SPDX-License-Identifier: GPL-2.0-or-later
"""How far KASLR has moved a kernel, told by the return addresses on its stacks.  Pure.

A slide is a multiple of 2 MiB.  With the right one nearly all words of the stacks that may be code
are where a call returns to; with a wrong one few are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmlab.profiles.architecture import SymbolRules


Addresses = npt.NDArray[np.uint64]

_MAX_WORDS = 4096
_MIN_VOTES = 4
_MIN_LEAD = 2  # times as many as the second


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide in bytes; ``votes`` of ``words`` speak for it."""

    distance: int
    votes: int
    words: int


def find(words: Iterable[int], returns: Addresses, rules: SymbolRules) -> Slide | None:
    """Return the slide that puts *words* onto *returns* (sorted), None if no one stands out."""
    distinct = np.array(sorted(set(words))[:_MAX_WORDS], np.uint64)
    if not len(distinct) or not len(returns):
        return None
    slides = range(0, rules.kaslr_range, rules.kaslr_step)
    votes = np.array([_votes(distinct, returns, slide) for slide in slides])
    best = int(votes.argmax())
    rest = np.delete(votes, best)
    second = int(rest.max()) if len(rest) else 0
    if votes[best] < _MIN_VOTES or votes[best] < _MIN_LEAD * second:
        return None
    return Slide(slides[best], int(votes[best]), len(distinct))


def _votes(words: Addresses, returns: Addresses, slide: int) -> int:
    linked = words - np.uint64(slide)
    at = np.minimum(np.searchsorted(returns, linked), len(returns) - 1)
    return int(np.count_nonzero(returns[at] == linked))
