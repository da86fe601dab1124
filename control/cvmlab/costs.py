# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimate from counts what a boot's page-state changes would take on hardware.  Pure.

It is an estimate and says so: a range, from measurements that others have published, for what they
have measured; the guest's own work is not in it.
"""

import tomllib
from functools import cache
from pathlib import Path

from msgspec import Struct

from cvmlab.documents import read
from cvmlab.result import CostTerm, Counters, Estimate


_FILE = Path(__file__).with_name("costs.toml")
_COUNTERS = ("accepted", "to_shared", "to_private")


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
    coco: str, firmware: str, counters: Counters, costs: tuple[Cost, ...]
) -> Estimate | None:
    """Return the estimate for a profile, or None if nobody has measured hardware like that."""
    own = {
        cost.counter: cost
        for cost in costs
        if cost.coco == coco and firmware not in cost.not_firmware
    }
    if not own:
        return None
    terms = tuple(
        CostTerm(
            counter=name,
            count=(count := getattr(counters, name)),
            seconds_low=round(count * cost.low_s, 6),
            seconds_high=round(count * cost.high_s, 6),
            source=cost.source,
        )
        for name, cost in own.items()
    )
    return Estimate(
        technology=coco,
        seconds_low=round(sum(term.seconds_low for term in terms), 6),
        seconds_high=round(sum(term.seconds_high for term in terms), 6),
        terms=terms,
        not_counted=tuple(
            name for name in _COUNTERS if name not in own and getattr(counters, name)
        ),
    )
