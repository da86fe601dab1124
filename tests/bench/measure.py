# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure in pairs, so that a machine whose speed drifts still gives a ratio."""

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
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
    ours()
    other()
    ratios, first, second = [], [], []
    for _ in range(pairs):
        first.append(ours())
        second.append(other())
        ratios.append(first[-1] / second[-1])
    detail = (
        f"{pairs} pairs, {min(ratios):.3f} to {max(ratios):.3f}; "
        f"medians {statistics.median(first):.4g} / {statistics.median(second):.4g} s"
    )
    return Figure(name, statistics.median(ratios), detail)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
