# SPDX-License-Identifier: GPL-2.0-or-later
"""Console and agent over real sockets, fed by the test."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cvmlab.base.errors import DeadlineExceeded, GuestPanic, MarkerNotSeen
from cvmlab.listening.agent import Agent, Exit, Hello, parse_line
from cvmlab.listening.console import Console
from cvmlab.machine.socket_pairs import stream


class Guest:
    """The other end."""

    def __init__(self, sock: socket.socket, console: Console) -> None:
        self.sock = sock
        self.console = console

    def says(self, text: str | bytes) -> None:
        self.sock.sendall(text if isinstance(text, bytes) else text.encode())

    def ends(self) -> None:
        self.sock.close()


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    ours, theirs = socket.socketpair()
    with theirs:
        async with stream(ours) as (reader, writer), asyncio.TaskGroup() as group:
            console = Console(reader, writer)
            task = group.create_task(console.follow())
            yield Guest(theirs, console)
            task.cancel()


async def test_the_log_has_every_byte_once_and_as_it_came(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    async with stream(ours) as (reader, writer):
        console = Console(reader, writer, log_path=tmp_path / "console.log")
        with theirs:
            theirs.sendall(b"one\r\n\xfftwo")
        await console.follow()

    assert (tmp_path / "console.log").read_bytes() == b"one\r\n\xfftwo"


async def test_a_pattern_is_found_across_pieces(guest: Guest) -> None:
    waiting = asyncio.create_task(guest.console.wait_for("login:", timeout_s=5))
    for piece in ("\r\ndebian lo", "gi", "n: "):
        guest.says(piece)
        await asyncio.sleep(0)
    assert (await waiting).group() == "login:"
    assert guest.console.text == "\ndebian login: "


async def test_a_wait_looks_only_at_what_follows_the_last_match(guest: Guest) -> None:
    guest.says("# one\n# two\n")
    assert (await guest.console.wait_for("^# .*$", timeout_s=5)).group() == "# one"
    assert (await guest.console.wait_for("^# .*$", timeout_s=5)).group() == "# two"
    with pytest.raises(DeadlineExceeded):
        await guest.console.wait_for("^# .*$", timeout_s=0.05)


async def test_characters_cut_in_two_and_broken_ones(guest: Guest) -> None:
    guest.says("gr\u00fc".encode()[:-1])
    guest.says("\u00fc".encode()[-1:] + b"\xff!")
    assert (await guest.console.wait_for("gr\u00fc(.)!", timeout_s=5)).group(1) == "\ufffd"


async def test_panic_fails_every_wait_at_once(guest: Guest) -> None:
    guest.says("[    1.000000] Kernel panic - not syncing: no init\r\n[    1.100000] more\n")
    with pytest.raises(GuestPanic) as caught:
        await guest.console.wait_for("login:", timeout_s=5)
    assert caught.value.line == "Kernel panic - not syncing: no init"
    assert caught.value.last_lines[-1] == "[    1.100000] more"
    assert guest.console.kernel_log.panic == caught.value.line


async def test_a_panic_is_told_when_its_line_is_whole(guest: Guest) -> None:
    wait = asyncio.ensure_future(guest.console.wait_for("never", timeout_s=5))
    guest.says("Kernel panic - not syncing: no in")
    await asyncio.sleep(0.02)
    assert not wait.done()
    guest.says("it\n")
    with pytest.raises(GuestPanic, match="no init"):
        await wait


async def test_a_panic_cut_off_by_the_end_is_told(guest: Guest) -> None:
    guest.says("Kernel panic - not syncing: no in")
    guest.ends()
    with pytest.raises(GuestPanic, match="no in"):
        await guest.console.wait_for("never", timeout_s=5)


async def test_a_panic_that_is_awaited_is_no_failure(guest: Guest) -> None:
    guest.says("Kernel panic - not syncing: as planned\n")
    await guest.console.wait_for("Kernel panic", timeout_s=5)


async def test_whichever_comes_first_decides(guest: Guest) -> None:
    guest.says("good\nbad\n")
    await guest.console.wait_for("good", fail=("bad",), timeout_s=5)
    with pytest.raises(MarkerNotSeen, match="it shows 'bad'"):
        await guest.console.wait_for("good", fail=("bad",), timeout_s=5)


async def test_the_end_of_the_console_ends_a_wait(guest: Guest) -> None:
    guest.says("one\ntwo")
    guest.ends()
    with pytest.raises(MarkerNotSeen, match="never saw 'three' on the console: the console ended"):
        await guest.console.wait_for("three", timeout_s=5)
    with pytest.raises(MarkerNotSeen) as caught:
        await guest.console.wait_for("three", timeout_s=5)
    assert caught.value.last_lines == ("one", "two")


async def test_two_waits_at_a_time(guest: Guest) -> None:
    waits = [
        asyncio.create_task(guest.console.wait_for(word, timeout_s=5)) for word in ("one", "two")
    ]
    guest.says("two one")
    assert [match.group() for match in await asyncio.gather(*waits)] == ["one", "two"]


async def test_a_flood_is_forgotten_but_searched(guest: Guest) -> None:
    waiting = asyncio.create_task(guest.console.wait_for("needle(.)", timeout_s=20))
    loop = asyncio.get_running_loop()
    guest.sock.setblocking(False)
    await loop.sock_sendall(guest.sock, b"hay\n" * 400_000)
    await loop.sock_sendall(guest.sock, b"needle!")
    assert (await waiting).group(1) == "!"
    assert len(guest.console.text) <= 1 << 20
    guest.says("needle?")
    assert (await guest.console.wait_for("needle(.)", timeout_s=5)).group(1) == "?"


async def test_what_is_sent_arrives(guest: Guest) -> None:
    await guest.console.send("root\n")
    assert guest.sock.recv(100) == b"root\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"cvmlab hello 6.12.107+deb13-cloud-amd64", Hello("6.12.107+deb13-cloud-amd64")),
        (b"cvmlab hello 6.12\r", Hello("6.12")),
        (b"cvmlab exit 0", Exit(0)),
        (b"cvmlab exit 255", Exit(255)),
        (b"cvmlab exit 256", None),
        (b"cvmlab exit -1", None),
        (b"cvmlab exit", None),
        (b"cvmlab hello", None),
        (b"cvmlab hello two words", None),
        (b"[    0.0] Linux version", None),
        (b"", None),
    ],
)
def test_the_agents_lines(line: bytes, message: Hello | Exit | None) -> None:
    assert parse_line(line) == message


async def test_the_agent_is_heard_through_noise() -> None:
    reader = asyncio.StreamReader()
    agent = Agent(reader)
    for piece in (b"\x00noise", b" of the kernel\n", b"cvmlab hel", b"lo 6.1\ncvmlab ", b"exit 3"):
        reader.feed_data(piece)
    reader.feed_data(b"x" * 100_000 + b"\ncvmlab exit 7\ncvmlab exit 9")
    reader.feed_eof()
    await agent.follow()
    assert (agent.release, agent.exit_status) == ("6.1", 7)


async def test_a_connection_that_is_reset_is_an_end() -> None:
    reader = asyncio.StreamReader()
    reader.set_exception(ConnectionResetError())
    agent = Agent(reader)
    await agent.follow()
    assert agent.release is None


async def test_the_end_of_a_console_that_is_held_is_not_the_last(guest: Guest) -> None:
    """The QEMU that is being replaced may die before the other one's console is there."""
    await guest.console.hold(timeout_s=5)
    guest.ends()
    await asyncio.sleep(0.02)
    ours, theirs = socket.socketpair()
    with theirs:
        async with stream(ours) as (reader, writer):
            guest.console.continue_with(reader, writer)
            guest.console.release()
            theirs.sendall(b"here again\n")
            await guest.console.wait_for("here again", timeout_s=5)


async def test_the_end_of_an_agent_that_is_held_is_not_the_last() -> None:
    old, new = asyncio.StreamReader(), asyncio.StreamReader()
    agent = Agent(old)
    following = asyncio.ensure_future(agent.follow())
    agent.hold()
    old.feed_eof()
    await asyncio.sleep(0.02)
    agent.continue_with(new)
    agent.allow_end()
    new.feed_data(b"cvmlab exit 7\n")
    new.feed_eof()
    await asyncio.wait_for(following, 5)
    assert agent.exit_status == 7
