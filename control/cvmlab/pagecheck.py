# SPDX-License-Identifier: GPL-2.0-or-later
"""Say how counts and states differ from what a test asserts; None if they do not.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

from cvmlab.choices import choose
from cvmlab.ranges import PAGE_SIZE, GpaRange
from cvmlab.states import Counter, PageState
from cvmlab.table import PageCounts


Wanted = int | range
RUNS_SHOWN = 6


class Run(Protocol):
    """Consecutive guest physical pages in one state."""

    @property
    def range(self) -> GpaRange: ...
    @property
    def state(self) -> PageState: ...


def counts_fault(
    pages: PageCounts, counters: Mapping[Counter, int], wanted: Mapping[str, Wanted]
) -> str | None:
    """Hold counts against *wanted*: a number, or a range of them, by the name of state or counter.

    ``poisoned`` is the pages that are, not how often it was done.
    """
    counted = {counter.name.lower(): value for counter, value in counters.items()} | asdict(pages)
    for name in wanted:
        choose("assert_counts", name, counted)
    wrong = [
        f"{name} is {counted[name]}, not {_say(value)}"
        for name, value in wanted.items()
        if counted[name] not in (value if isinstance(value, range) else (value,))
    ]
    if not wrong:
        return None
    states = ", ".join(f"{name} {number}" for name, number in asdict(pages).items())
    others = ", ".join(
        f"{name} {number}" for name, number in counted.items() if number and name not in _STATES
    )
    return f"{'; '.join(wrong)}\n  pages     {states}\n  counters  {others or 'all 0'}"


_STATES = frozenset(asdict(PageCounts()))


def _say(value: Wanted) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value.start} to {value[-1]}" if len(value) else "in an empty range"


def state_fault(runs: Sequence[Run], within: GpaRange, state: PageState) -> str | None:
    """Hold the *runs* that make up *within* against the one *state* they should be in."""
    wrong = [run for run in runs if run.state is not state]
    if not wrong:
        return None
    pages = sum(run.range.size for run in wrong) // PAGE_SIZE
    first = f"{pages} of {within.pages} pages of {within} are not {state.word}"
    lines = [f"  {run.range} is {run.state.word}" for run in wrong[:RUNS_SHOWN]]
    if len(wrong) > len(lines):
        lines.append(f"  and {len(wrong) - len(lines)} more runs")
    return "\n".join([first, *lines])
