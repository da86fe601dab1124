# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure in pairs, so that a machine whose speed drifts still gives a ratio."""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from resource import RUSAGE_CHILDREN, getrusage
from typing import TypeVar

from tests.bench.perf_counter import Counter


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number: ``name`` is a key of budgets.toml, ``detail`` says how it came about.

    ``value`` is None if this machine cannot measure it; ``detail`` then says why.
    """

    name: str
    value: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took in user mode; no instructions where the machine does not count them."""

    cpu_s: float
    instructions: int | None


def cost(argv: Sequence[str], *, timeout_s: float, pass_fds: Sequence[int] = ()) -> Cost:
    """Run *argv* to its end and return what it took; raise if it fails."""
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    with Counter.instructions() as counter:
        subprocess.run(argv, check=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       pass_fds=pass_fds)  # fmt: skip
        return Cost(getrusage(RUSAGE_CHILDREN).ru_utime - before, counter.value)


def paired(name: str, ours: Callable[[], float], other: Callable[[], float], pairs: int) -> Figure:
    """Return the median ratio of *ours* to *other*, measured in turn after one warm-up each."""
    (figure,) = in_rounds({name: ours}, other, pairs)
    return figure


def in_rounds(
    ours: Mapping[str, Callable[[], float]], other: Callable[[], float], rounds: int
) -> Iterator[Figure]:
    """Yield the median ratio of each of *ours* to *other*, which is measured once a round."""
    taken = in_turn({**ours, "": other}, rounds)
    for name in ours:
        yield ratio(name, [one[name] for one in taken], [one[""] for one in taken], "s")


def in_turn(works: Mapping[str, Callable[[], T]], rounds: int) -> list[dict[str, T]]:
    """Return what each of *works* gave in each round: all of them in turn, after one warm-up."""
    for work in works.values():
        work()
    return [{name: work() for name, work in works.items()} for _ in range(rounds)]


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
