# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure in pairs, so that a machine whose speed drifts still gives a ratio."""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, getrusage


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: ``name`` is a key of budgets.toml, ``detail`` says how it came about."""

    name: str
    value: float
    detail: str


def user_cpu_s(argv: Sequence[str], *, timeout_s: float) -> float:
    """Run *argv* to its end and return the user CPU time it took; raise if it fails."""
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    subprocess.run(argv, check=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    return getrusage(RUSAGE_CHILDREN).ru_utime - before


def paired(name: str, ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Figure:
    """Return the median ratio of *ours* to *other*, measured in turn after one warm-up each."""
    (figure,) = in_rounds({name: ours}, other, pairs)
    return figure


def in_rounds(
    ours: Mapping[str, Callable[[], float]], other: Callable[[], float], rounds: int
) -> Iterator[Figure]:
    """Yield the median ratio of each of *ours* to *other*, which is measured once a round.

    A round measures all of them in turn; one warm-up goes before.
    """
    every = {**ours, "": other}
    for work in every.values():
        work()
    taken = [{name: work() for name, work in every.items()} for _ in range(rounds)]
    plain = [one[""] for one in taken]
    for name in ours:
        mine = [one[name] for one in taken]
        yield ratio(name, mine, plain, "s")


def ratio(name: str, ours: Sequence[float], others: Sequence[float], unit: str) -> Figure:
    """Return the median of the ratios of figures that were taken in pairs."""
    ratios = [mine / other for mine, other in zip(ours, others, strict=True)]
    detail = (
        f"{len(ratios)} pairs, {min(ratios):.3f} to {max(ratios):.3f}; "
        f"medians {statistics.median(ours):.4g} / {statistics.median(others):.4g} {unit}"
    )
    return Figure(name, statistics.median(ratios), detail)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
