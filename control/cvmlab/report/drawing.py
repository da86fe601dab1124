# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline as SVG shapes: phases on top, a lane for each count below.  Pure.

The page's template only places what is here; coordinates are those of its viewBox.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.results.timeline import Records, Series, Span, guest_seconds, phase_spans, series


WIDTH, LEFT, TOP = 1200, 90, 34
LANE, GAP = 84, 18
BINS = 555  # two units a bin
_TICKS = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A phase."""

    name: str
    x: float
    width: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One count over time; ``css`` is its measure, ``other`` the path of the other run."""

    name: str
    css: str
    top: float
    peak: int
    total: int
    path: str
    other: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of the time axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """All shapes, and the height they need."""

    height: float
    boxes: tuple[Box, ...]
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]


def timeline(
    records: Records, other: Records | None = None, measures: Measures = MEASURES
) -> Timeline:
    """Draw *records*; *other* gets outlines on the same axis of time, from its own start."""
    runs = [records] if other is None else [records, other]
    clocks = [_from_zero(guest_seconds(run)) for run in runs]
    end = max([1e-3, *(float(clock[-1]) for clock in clocks if len(clock))])
    counted = [series(run, clock, BINS, measures) for run, clock in zip(runs, clocks, strict=True)]
    lanes = tuple(_lanes(counted, end, measures))
    return Timeline(
        height=TOP + len(lanes) * (LANE + GAP) + 24,
        boxes=tuple(_box(span, end) for span in phase_spans(records, clocks[0])),
        lanes=lanes,
        ticks=tuple(_ticks(end)),
    )


def _from_zero(clock: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return clock - clock[0] if len(clock) else clock


def _x(second: float, end: float) -> float:
    return round(LEFT + (WIDTH - LEFT) * second / end, 2)


def _box(span: Span, end: float) -> Box:
    x = _x(span.start, end)
    return Box(span.name, x, max(_x(span.end, end) - x, 0.5), span.start, span.end)


def _lanes(counted: Sequence[Series], end: float, measures: Measures) -> Sequence[Lane]:
    totals = [{name: int(count.sum()) for name, count in one.counts.items()} for one in counted]
    lanes: list[Lane] = []
    for row in measures.shown(*totals):
        values = [one.counts[row.name] for one in counted]
        peak = max(int(value.max(initial=0)) for value in values)
        top = TOP + len(lanes) * (LANE + GAP)
        paths = [
            _path(one, value, peak, top, end) for one, value in zip(counted, values, strict=True)
        ]
        total, others = totals[0][row.name], "".join(paths[1:])
        lanes.append(Lane(row.label, row.name, top, peak, total, paths[0], others))
    return lanes


def _path(drawn: Series, values: npt.NDArray[np.int64], peak: int, top: float, end: float) -> str:
    """Return a staircase on a logarithmic scale: one fault is seen beside a million."""
    floor = top + LANE
    if not values.any():
        return ""
    heights = np.log1p(values) / math.log1p(peak) * LANE
    parts = [f"M{_x(float(drawn.edges[0]), end)} {floor}"]
    for height, right in zip(heights.tolist(), drawn.edges[1:].tolist(), strict=True):
        parts.append(f"V{round(floor - height, 1)}H{_x(right, end)}")
    return "".join([*parts, f"V{floor}Z"])


def _ticks(end: float) -> Sequence[Tick]:
    """Label round numbers of seconds."""
    rough = end / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    count = int(end / step) + 1
    digits = max(-math.floor(math.log10(step)), 0)
    return [Tick(_x(n * step, end), f"{n * step:.{digits}f} s") for n in range(count)]
