# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio

import pytest

from cvmlab.base.barrier import Barrier
from cvmlab.base.errors import DeadlineExceeded


async def test_all_others_wait_for_the_one_who_holds_it() -> None:
    barrier, order = Barrier("the door to be free"), []

    async def pass_through() -> None:
        await barrier.passed(5)
        order.append("passed")

    async with barrier.held():
        assert barrier.is_held
        waiting = asyncio.create_task(pass_through())
        await asyncio.sleep(0)
        order.append("held")
    await waiting
    assert order == ["held", "passed"]
    await barrier.passed(0)


async def test_a_wait_has_a_deadline_and_says_for_what() -> None:
    barrier = Barrier("the door to be free")
    async with barrier.held():
        with pytest.raises(DeadlineExceeded, match=r"waited 0\.01 s for the door to be free"):
            await barrier.passed(0.01)


async def test_it_is_free_after_an_error() -> None:
    barrier = Barrier("the door to be free")
    with pytest.raises(ValueError, match="inside"):
        async with barrier.held():
            raise ValueError("inside")
    await barrier.passed(0)
