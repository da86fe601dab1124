# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules that a guest's agent tells of: before its command, and again after it."""

import asyncio

from cvmlab.listening.agent import Agent
from cvmlab.unwind.modules import LoadedModule


async def told(text: str) -> tuple[LoadedModule, ...]:
    reader = asyncio.StreamReader()
    reader.feed_data(text.encode())
    reader.feed_eof()
    agent = Agent(reader)
    await agent.follow()
    return agent.modules


async def test_they_are_known_before_the_command_has_ended() -> None:
    known = await told("cvmlab hello 6.12\ncvmlab module virtio_net 4096 0xffffffffc0000000\n")
    assert known == (LoadedModule("virtio_net", 4096, 0xFFFFFFFFC0000000),)


async def test_the_last_word_on_a_module_counts() -> None:
    again = (
        "cvmlab module dummy 4096 0xffffffffc0000000\ncvmlab module dummy 4096 0xffffffffc0100000\n"
    )
    assert await told(again) == (LoadedModule("dummy", 4096, 0xFFFFFFFFC0100000),)


async def test_a_hostile_guest_has_no_more_than_a_kernel_may_have() -> None:
    many = "".join(f"cvmlab module m{n} 1 0x{n:x}\n" for n in range(1, 5000))
    known = await told(many)
    assert len(known) == 1024
    assert known[0] == LoadedModule("m1", 1, 1)
