# SPDX-License-Identifier: GPL-2.0-or-later
"""The QMP edge against a peer that the test plays itself, message by message."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.base.channel import Topic
from cvmlab.base.errors import (
    CommandRefused,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    PluginError,
    VmExited,
)
from cvmlab.vm.qmp import Qmp, plugin_fault


GREETING = {"QMP": {"version": {"qemu": {}, "package": ""}, "capabilities": []}}
Answer = Callable[[dict[str, Any]], list[bytes] | None]


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def returns(value: object) -> Answer:
    return lambda request: [line({"return": value, "id": request.get("id")})]


def closes(_: dict[str, Any]) -> None:
    return None


def never(_: dict[str, Any]) -> list[bytes]:
    return []


class Peer:
    """Speaks QMP as told: *answers* by command; what is not there is never answered."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = {"qmp_capabilities": returns({}), **answers}
        self.seen: list[str] = []
        self.writer: asyncio.StreamWriter

    async def serve(self, sock: socket.socket) -> None:
        reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 24)
        try:
            self.writer.write(line(GREETING))
            decoder, text = json.JSONDecoder(), ""
            while data := await reader.read(1 << 20):
                text += data.decode()
                while text:
                    try:
                        request, end = decoder.raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:].lstrip()
                    if not self.answer(request):
                        return
        finally:
            self.writer.close()

    def answer(self, request: dict[str, Any]) -> bool:
        self.seen.append(request["execute"])
        pieces = self.answers.get(request["execute"], never)(request)
        if pieces is None:
            return False
        for piece in pieces:
            self.writer.write(piece)
        return True


@asynccontextmanager
async def session(
    answers: dict[str, Answer], log_path: Path | None = None
) -> AsyncIterator[tuple[Qmp, Peer]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    peer = Peer(answers)
    async with asyncio.TaskGroup() as group:
        group.create_task(peer.serve(theirs))
        async with Qmp.connect(ours, log_path=log_path, timeout_s=2) as qmp:
            yield qmp, peer


async def test_a_command_returns_what_qemu_returns() -> None:
    async with session({"a": returns({"x": 1}), "b": returns([])}) as (qmp, peer):
        assert await qmp.execute("a", {"arg": 1}) == {"x": 1}
        assert await qmp.execute("b") == []
    assert peer.seen == ["qmp_capabilities", "a", "b"]


async def test_commands_may_overlap_and_be_answered_in_any_order() -> None:
    held: list[bytes] = []

    def hold(request: dict[str, Any]) -> list[bytes]:
        held.append(line({"return": 1, "id": request["id"]}))
        return []

    def release(request: dict[str, Any]) -> list[bytes]:
        return [line({"return": 2, "id": request["id"]}), *held]

    async with session({"first": hold, "second": release}) as (qmp, _):
        both = await asyncio.gather(qmp.execute("first"), qmp.execute("second"))
        assert list(both) == [1, 2]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda r: [line({"error": {"class": "GenericError", "desc": "no"}, "id": r["id"]})],
         CommandRefused, "QEMU refused a: no"),
        (closes, OutcomeUnknown,
         "the connection to QEMU ended before a was answered; whether it took effect is unknown"),
        (lambda r: [b'{"return": '], DeadlineExceeded, "waited 0.1 s for QEMU to answer a"),
        (lambda r: [], DeadlineExceeded, "waited 0.1 s for QEMU to answer a"),
        (lambda r: [line({"return": 1, "id": "another"})], DeadlineExceeded, "waited 0.1 s"),
        (lambda r: [line({"neither": 1, "id": r["id"]})], PluginError, "makes no sense"),
        (lambda r: [line({"error": 5, "id": r["id"]})], PluginError, "makes no sense"),
        (lambda r: [b"\xff\xfe{}\r\n"], OutcomeUnknown, "ended before a was answered"),
        (lambda r: [b"[1, 2]\r\n"], OutcomeUnknown, "ended before a was answered"),
        (lambda r: [line({"error": {"class": "X", "desc": "parse"}})], OutcomeUnknown, "ended"),
    ],
)  # fmt: skip
async def test_every_bad_answer_is_a_typed_error(
    answer: Answer, error: type[Exception], message: str
) -> None:
    async with session({"a": answer}) as (qmp, _):
        with pytest.raises(error) as caught:
            await qmp.execute("a", timeout_s=0.1)
        assert message in str(caught.value)


async def test_an_answer_given_twice_does_no_harm() -> None:
    def twice(request: dict[str, Any]) -> list[bytes]:
        return [line({"return": 1, "id": request["id"]})] * 2

    async with session({"a": twice, "b": returns(2)}) as (qmp, _):
        assert await qmp.execute("a") == 1
        assert await qmp.execute("b") == 2


async def test_an_answer_in_pieces_is_one_answer() -> None:
    def pieces(request: dict[str, Any]) -> list[bytes]:
        whole = line({"return": "x" * 100_000, "id": request["id"]})
        return [whole[at : at + 7000] for at in range(0, len(whole), 7000)]

    async with session({"a": pieces}) as (qmp, _):
        assert await qmp.execute("a") == "x" * 100_000


async def test_after_the_connection_ended_nothing_is_sent() -> None:
    async with session({"a": closes}) as (qmp, peer):
        with pytest.raises(OutcomeUnknown):
            await qmp.execute("a")
        await qmp.wait_closed()
        with pytest.raises(VmExited, match="b was not sent: the connection to QEMU is closed"):
            await qmp.execute("b")
    assert peer.seen[-1] == "a"


async def test_the_end_lets_what_is_in_flight_be_answered_and_refuses_the_rest() -> None:
    late: list[dict[str, Any]] = []

    def hold(request: dict[str, Any]) -> list[bytes]:
        late.append(request)
        return []

    async with session({"slow": hold, "quit": returns({})}) as (qmp, peer):
        slow = asyncio.create_task(qmp.execute("slow"))
        while not late:  # noqa: ASYNC110 - the peer is a task of this loop
            await asyncio.sleep(0)
        ending = asyncio.create_task(qmp.end("power-off", timeout_s=5))
        await asyncio.sleep(0)
        with pytest.raises(VmExited, match="new was not sent: power-off"):
            await qmp.execute("new")
        peer.writer.write(line({"return": "done", "id": late[0]["id"]}))
        await ending
        assert slow.done()
        assert await slow == "done"
        assert await qmp.execute_last("quit", timeout_s=1) == {}
        await qmp.quit(timeout_s=1)
    assert peer.seen[-1] == "quit"
    assert "new" not in peer.seen


async def test_the_end_does_not_wait_for_ever() -> None:
    async with session({}) as (qmp, _):
        stuck = asyncio.create_task(qmp.execute("stuck", timeout_s=0.3))
        await asyncio.sleep(0)
        await qmp.end("power-off", timeout_s=0.02)
        assert not stuck.done()
        assert await qmp.execute_last("quit", timeout_s=0.02) is None
        with pytest.raises(DeadlineExceeded):
            await stuck


async def test_events_reach_every_reader_until_the_connection_ends() -> None:
    async with session({"a": closes}) as (qmp, peer):
        with qmp.events() as one, qmp.events() as two:
            stamp = {"seconds": 5, "microseconds": 500_000}
            peer.writer.write(line({"event": "STOP", "timestamp": stamp}))
            peer.writer.write(line({"event": "X", "data": {"y": 1}, "timestamp": stamp}))
            with pytest.raises(OutcomeUnknown):
                await qmp.execute("a")
            seen = [(event.name, dict(event.data), event.time_s) async for event in one]
            assert seen == [("STOP", {}, 5.5), ("X", {"y": 1}, 5.5)]
            assert len([event async for event in two]) == 2


async def test_every_message_is_logged_and_long_ones_are_cut(tmp_path: Path) -> None:
    log = tmp_path / "qmp.jsonl"
    async with session({"a": returns("x" * 10_000)}, log) as (qmp, _):
        await qmp.execute("a", {"list": list(range(5000))})
    entries = [json.loads(text) for text in log.read_text().splitlines()]
    assert [key for entry in entries for key in entry if key != "time"] == [
        "received", "sent", "received", "sent", "received",
    ]  # fmt: skip
    assert entries[0]["received"] == GREETING
    assert entries[3]["sent"]["bytes"] > 20_000
    assert entries[3]["sent"]["beginning"].startswith('{"execute":"a"')
    assert log.stat().st_size < 12_000


async def test_a_log_on_a_full_disk_does_not_stop_the_vm() -> None:
    async with session({"a": returns(1)}, Path("/dev/full")) as (qmp, _):
        assert await qmp.execute("a") == 1


async def test_a_path_where_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing answers on"):
        async with Qmp.connect(tmp_path / "qmp.sock"):
            pass


def test_the_words_of_a_qemu_without_the_plugin_are_known() -> None:
    old = "qemu: -object memory-backend-restricted,id=x: invalid object type: memory-backend-restricted"
    new = "qemu: -object x: Parameter 'qom-type' does not accept value 'memory-backend-restricted'"
    assert plugin_fault(["warning", new]) is not None
    assert plugin_fault([old]) is not None
    assert plugin_fault(["qemu: memory-backend-restricted: smm must be off", ""]) is None


async def test_a_topic_tells_each_reader_what_it_missed() -> None:
    topic: Topic[int] = Topic()
    assert not topic
    with topic.subscribe(limit=2) as slow, topic.subscribe() as fast:
        assert topic
        for number in range(4):
            topic.publish(number, weight=10)
        assert await anext(slow) == 0
        topic.publish(4)
        topic.close()
        assert [item async for item in slow] == [1, 4]
        assert slow.missed == 20
        assert [item async for item in fast] == [0, 1, 2, 3, 4]
    assert not topic
    with topic.subscribe() as late:
        assert [item async for item in late] == []
    topic.forget(late)
