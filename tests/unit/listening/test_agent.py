# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's channel: what a command prints is passed on at once, and never a part of its end."""

import asyncio
import time

import pytest

from cvmlab.listening.agent import Agent


END = b"cvmlab end c0ffee-c\n"


async def followed(*pieces: bytes) -> list[bytes]:
    """Return what the agent passed on for each piece, and then after the end of the channel."""
    reader = asyncio.StreamReader()
    passed: list[bytes] = []
    agent = Agent(reader, passed.append)
    follow = asyncio.create_task(agent.follow())
    told = []
    for piece in (b"cvmlab output c0ffee-c\n", *pieces):
        reader.feed_data(piece)
        for _ in range(5):
            await asyncio.sleep(0)
        told.append(b"".join(passed))
        passed.clear()
    reader.feed_eof()
    follow.cancel()
    await asyncio.gather(follow, return_exceptions=True)
    return told[1:]


@pytest.mark.parametrize(
    "before", [b"", b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b[2J", b"BdsDxe: starting\r\n"]
)
async def test_firmware_may_have_written_to_the_port_before_hello(before: bytes) -> None:
    reader = asyncio.StreamReader()
    agent = Agent(reader)
    reader.feed_data(before + b"cvmlab hello 6.12.1\ncvmlab exit 0\n")
    reader.feed_eof()
    await agent.follow()
    assert (agent.release, agent.exit_status) == ("6.12.1", 0)


@pytest.mark.fault("V13")
async def test_a_line_does_not_wait_for_more() -> None:
    assert await followed(b"here-it-is\n", b"and ", b"this") == [b"here-it-is\n", b"and ", b"this"]


async def test_what_may_be_the_end_waits_and_only_that() -> None:
    assert await followed(b"all cvmlab e", b"asy\n") == [b"all ", b"cvmlab easy\n"]
    assert await followed(b"last c", END[1:]) == [b"last ", b""]
    assert await followed(b"c", b"c", END) == [b"", b"c", b"c"]


@pytest.mark.fault("V6")
@pytest.mark.parametrize(
    "last_words", [b"", b"half a line", b"a line\n", b"\x1b[1mbold\x1b[m", b"\x1b[m" * 3]
)
async def test_a_crash_kernels_agent_is_none_of_the_commands_output(last_words: bytes) -> None:
    """The command never ends: its kernel has panicked.  Before that it may print what it likes."""
    reader, passed, panics = asyncio.StreamReader(), list[bytes](), [0]
    agent = Agent(reader, passed.append, panics=lambda: panics[0])
    follow = asyncio.create_task(agent.follow())
    for panicked, text in (
        (0, b"cvmlab hello 6.12\ncvmlab output c0ffee-c\n"),
        (0, b"cvmlab hello 9.9\n"),
        (1, last_words),
        (1, b"cvmlab hello 6.12-cra"),
        (1, b"sh\ncvmlab output c0ffee-d\nsaved\ncvmlab end c0ffee-d\ncvmlab exit 5\n"),
    ):
        panics[0] = panicked
        reader.feed_data(text)
        for _ in range(5):
            await asyncio.sleep(0)
    reader.feed_eof()
    await follow
    assert (agent.release, agent.exit_status) == ("6.12-crash", 5)
    assert b"".join(passed) == b"cvmlab hello 9.9\n" + last_words + b"saved\n"


async def test_many_escapes_of_a_dead_command_cost_no_more_than_others() -> None:
    reader, passed = asyncio.StreamReader(), list[bytes]()
    panics = iter((0,))
    agent = Agent(reader, passed.append, panics=lambda: next(panics, 1))
    lines = (b"\x1b[m" * 2700 + b"\n") * 100
    reader.feed_data(b"cvmlab output c0ffee-c\n" + lines)
    reader.feed_eof()
    began = time.process_time()
    await agent.follow()
    assert time.process_time() - began < 3
    assert b"".join(passed) == lines
