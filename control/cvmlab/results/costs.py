# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimate from counts what a boot's page-state changes would take on hardware.  Pure.

The result is a range, and says that it is an estimate.  It comes from published measurements and
covers only what they measured.  The guest's own work is not in it.
"""

import tomllib
from functools import cache
from pathlib import Path

from msgspec import Struct

from cvmlab.base.documents import read
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.results.counts import Counters
from cvmlab.results.result import CostTerm, Estimate


_FILE = Path(__file__).with_name("costs.toml")


class Cost(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One constant of costs.toml."""

    coco: str
    counter: str
    low_s: float
    high_s: float
    not_firmware: tuple[str, ...] = ()
    source: tuple[str, ...]


class Costs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    cost: tuple[Cost, ...]


@cache
def load() -> tuple[Cost, ...]:
    """Return the constants that come with cvmlab."""
    return read(tomllib.loads(_FILE.read_text("utf-8")), Costs, where=_FILE.name).cost


def estimate(
    hardware: str | None,
    firmware: str,
    counters: Counters,
    costs: tuple[Cost, ...],
    measures: Measures = MEASURES,
) -> Estimate | None:
    """Return the estimate for *hardware*, which costs.toml names by profile.

    None if nobody has published measurements of it.
    """
    own = {
        cost.counter: cost
        for cost in costs
        if cost.coco == hardware and firmware not in cost.not_firmware
    }
    if hardware is None or not own:
        return None
    terms = tuple(
        CostTerm(
            counter=name,
            count=(count := counters[name]),
            seconds_low=round(count * cost.low_s, 6),
            seconds_high=round(count * cost.high_s, 6),
            source=cost.source,
        )
        for name, cost in own.items()
    )
    return Estimate(
        technology=hardware,
        seconds_low=round(sum(term.seconds_low for term in terms), 6),
        seconds_high=round(sum(term.seconds_high for term in terms), 6),
        terms=terms,
        not_counted=tuple(
            row.name for row in measures.changes if row.name not in own and counters[row.name]
        ),
    )
