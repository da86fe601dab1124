# SPDX-License-Identifier: GPL-2.0-or-later
"""Blame skips the functions that only carry out a request."""

import pytest

from cvmlab.results.callers import CALLERS_KEPT, Callers, NamedChain, function_of


CHAIN = NamedChain(
    ("tdcall+0x1", "set_it+0x2", "alloc+0x3", "probe+0x4 [virtio_blk]", "init+0x5"), 3
)
CALLERS = Callers({1: CHAIN, 2: NamedChain(("tdcall+0x1",))}, ("tdcall", "set_*"))


def test_the_first_function_that_is_not_thin_is_blamed() -> None:
    assert CALLERS.blamed(1, "tdcall+0x1") == "alloc+0x3"
    assert CALLERS.above(1) == ("probe [virtio_blk]", "init")
    assert CALLERS.guessed(1) == 0


def test_without_a_chain_or_with_thin_functions_only_the_leaf_is() -> None:
    assert CALLERS.blamed(0, "leaf+0x1") == "leaf+0x1"
    assert CALLERS.blamed(0, None) is None
    assert CALLERS.blamed(2, None) == "tdcall+0x1"
    assert CALLERS.above(0) == CALLERS.above(2) == ()
    assert CALLERS.guessed(0) is CALLERS.guessed(2) is None


def test_chains_are_bounded() -> None:
    long = Callers({1: NamedChain(tuple(f"f{i}+0x0" for i in range(64)))})
    assert len(long.above(1)) == CALLERS_KEPT


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("probe+0x4", "probe"),
        ("probe+0x4 [virtio_blk]", "probe [virtio_blk]"),
        ("[virtio_blk]+0x4", "[virtio_blk]"),
        ("0xffffffff81000000", "0xffffffff81000000"),
    ],
)
def test_a_function_is_a_call_without_its_offset(call: str, function: str) -> None:
    assert function_of(call) == function
