# SPDX-License-Identifier: GPL-2.0-or-later
"""Differences between counts or states and what a test asserts, as text; None without any.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cvmlab.base.choices import choose
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange
from cvmlab.memory.states import PageState
from cvmlab.memory.table import PageCounts


Wanted = int | range
RUNS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class StateRun:
    """Consecutive guest physical pages in one state."""

    range: GpaRange
    state: PageState


def counts_fault(
    pages: PageCounts, counters: Mapping[str, int], wanted: Mapping[str, Wanted]
) -> str | None:
    """Compare counts with *wanted*: a number or a range, by the name of a state or counter.

    ``poisoned`` is the number of pages in that state, not the number of times it happened.
    """
    counted = {**counters, **asdict(pages)}
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


def state_fault(runs: Sequence[StateRun], within: GpaRange, state: PageState) -> str | None:
    """Compare the *runs* that make up *within* with the *state* they should all be in."""
    wrong = [run for run in runs if run.state is not state]
    if not wrong:
        return None
    pages = sum(run.range.size for run in wrong) // PAGE_SIZE
    first = f"{pages} of {within.pages} pages of {within} are not {state.word}"
    lines = [f"  {run.range} is {run.state.word}" for run in wrong[:RUNS_SHOWN]]
    if len(wrong) > len(lines):
        lines.append(f"  and {len(wrong) - len(lines)} more runs")
    return "\n".join([first, *lines])
