# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimates of time on hardware: ranges, by published measurements, for what was measured."""

import pytest

from cvmlab.memory.states import profiles
from cvmlab.results import costs
from cvmlab.results.costs import Cost
from cvmlab.results.counts import Counters


OURS = (
    Cost(coco="tdx", counter="accepted", low_s=1e-3, high_s=2e-3, source=("somebody",)),
    Cost(coco="other", counter="to_shared", low_s=1.0, high_s=1.0, source=("nobody",)),
)


def test_an_estimate_is_a_range_with_its_sources_and_what_it_leaves_out() -> None:
    found = costs.estimate("tdx", "ovmf", Counters(accepted=1500, to_shared=2, to_private=0), OURS)

    assert found is not None
    assert found.is_estimate
    assert (found.seconds_low, found.seconds_high) == (1.5, 3.0)
    assert [(t.counter, t.count, t.source) for t in found.terms] == [
        ("accepted", 1500, ("somebody",))
    ]
    assert found.not_counted == ("to_shared",)


def test_without_a_measurement_there_is_no_estimate() -> None:
    assert costs.estimate("generic", "ovmf", Counters(accepted=5), OURS) is None


def test_a_boot_unlike_those_of_hardware_has_no_estimate() -> None:
    counters = Counters(accepted=5)

    assert costs.estimate("tdx", "seabios", counters, costs.load()) is None
    assert costs.estimate("tdx", "ovmf", counters, costs.load()) is not None


@pytest.mark.parametrize("cost", costs.load(), ids=lambda cost: f"{cost.coco}-{cost.counter}")
def test_every_constant_cites_a_public_measurement(cost: Cost) -> None:
    assert cost.coco in profiles()
    assert hasattr(Counters(), cost.counter)
    assert 0 < cost.low_s <= cost.high_s
    assert cost.source
    assert all(source.startswith("https://") and "(20" in source for source in cost.source)
