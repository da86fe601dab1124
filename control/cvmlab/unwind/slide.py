# SPDX-License-Identifier: GPL-2.0-or-later
"""How far KASLR has moved a kernel, told by the return addresses on its stacks.  Pure.

A slide is a multiple of the architecture's step.  With the right one nearly all words of the stacks that may be code
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
    slides, votes = _votes(distinct, np.unique(returns), rules)
    if not len(votes):
        return None
    best = int(votes.argmax())
    rest = np.delete(votes, best)
    second = int(rest.max()) if len(rest) else 0
    if votes[best] < _MIN_VOTES or votes[best] < _MIN_LEAD * second:
        return None
    return Slide(int(slides[best]), int(votes[best]), len(distinct))


def _votes(
    words: Addresses, returns: Addresses, rules: SymbolRules
) -> tuple[Addresses, npt.NDArray[np.int64]]:
    """Return the slides that put any word onto a return, ascending, and how many words each does.

    A range may have millions of slides; a word and a return that differ by one are few, and lie side
    by side once returns are sorted by what is left of them after a division by the step.
    """
    step = np.uint64(rules.kaslr_step)
    order = np.argsort(returns % step, kind="stable")
    remainders = (returns % step)[order]
    first = np.searchsorted(remainders, words % step, "left")
    counts = np.searchsorted(remainders, words % step, "right") - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    linked = returns[order[np.repeat(first, counts) + within]]
    # A word below the return wraps to a number far beyond any range.
    distances = np.repeat(words, counts) - linked
    slides, votes = np.unique(distances[distances < rules.kaslr_range], return_counts=True)
    return slides, votes
