# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking the owner of a VM for what only the owner can do."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cvmlab.base.errors import ConfigError, DeadlineExceeded, UpgradeFailed
from cvmlab.listening.console import Console
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.machine.socket_pairs import stream
from cvmlab.memory.states import Layout
from cvmlab.vm.handover import Upgrade
from cvmlab.vm.owner_socket import (
    OWNER_SOCKET,
    Answer,
    OwnerError,
    answering,
    ask_to_save,
    ask_to_upgrade,
    take_files,
)
from cvmlab.vm.saving import Saved


MEMORY = 2 << 20


class FakeOwner:
    """An owner whose upgrades always end in the same way."""

    def __init__(self, files: RestrictedFiles, outcome: Upgrade | Exception) -> None:
        self.memory_files = files
        self.asked: list[tuple[Path | None, float]] = []
        self._outcome = outcome

    async def upgrade(self, qemu: Path | None = None, *, timeout_s: float = 1.0) -> Upgrade:
        self.asked.append((qemu, timeout_s))
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def save(
        self, place: str | Path, *, compress: bool = False, timeout_s: float = 1.0
    ) -> Saved:
        self.asked.append((Path(place), timeout_s))
        return Saved(str(place), 7, 4096, 0.01 if compress else 0.02)


DONE = Upgrade("10.0.1", "10.0.2", 1, 2, 0.004, 0.03, 50000)


@pytest.fixture
def files() -> Iterator[RestrictedFiles]:
    with RestrictedFiles.create(MEMORY, layout=Layout.SPLIT) as made:
        yield made


async def test_an_upgrade_is_asked_for_and_told(files: RestrictedFiles, tmp_path: Path) -> None:
    owner = FakeOwner(files, DONE)
    async with answering(tmp_path, owner):
        assert await ask_to_upgrade(tmp_path, Path("/new"), 5) == DONE
        assert await ask_to_upgrade(tmp_path, None, 6) == DONE
    assert owner.asked == [(Path("/new"), 5), (None, 6)]
    assert not (tmp_path / OWNER_SOCKET).exists()


async def test_an_error_keeps_its_words_and_its_code(
    files: RestrictedFiles, tmp_path: Path
) -> None:
    async with answering(tmp_path, FakeOwner(files, UpgradeFailed("no", ["because"]))):
        with pytest.raises(OwnerError, match="no; because") as caught:
            await ask_to_upgrade(tmp_path, None, 5)
    assert (caught.value.hint, caught.value.exit_code) == (UpgradeFailed.HINT, 85)


async def test_a_snapshot_is_asked_for_and_told(files: RestrictedFiles, tmp_path: Path) -> None:
    owner, place = FakeOwner(files, DONE), tmp_path / "saved"
    async with answering(tmp_path, owner):
        saved = await ask_to_save(tmp_path, place, compress=True, timeout_s=5)
        assert saved == Saved(str(place), 7, 4096, 0.01)
    assert owner.asked == [(place, 5)]


async def test_the_files_that_come_are_the_owner_s(files: RestrictedFiles, tmp_path: Path) -> None:
    async with answering(tmp_path, FakeOwner(files, DONE)):
        with await take_files(tmp_path) as taken:
            assert taken.size_bytes == MEMORY
            assert not set(taken.fds.all) & set(files.fds.all)
            assert inodes(taken) == inodes(files)


def inodes(files: RestrictedFiles) -> list[int]:
    return [os.fstat(fd).st_ino for fd in files.fds.all]


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="owner does not answer"):
        await ask_to_upgrade(tmp_path, None, 5)


async def test_nonsense_is_answered_and_ends_nothing(
    files: RestrictedFiles, tmp_path: Path
) -> None:
    async with answering(tmp_path, FakeOwner(files, DONE)):
        for nonsense in (b"\x00", b"{}", b'{"type":"stop"}'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(peer, str(tmp_path / OWNER_SOCKET))
                await loop.sock_sendall(peer, nonsense)
                answer = msgspec.json.decode(await loop.sock_recv(peer, 4096), type=Answer)
            assert "invalid request" in (answer.error or "")
        assert await ask_to_upgrade(tmp_path, None, 5) == DONE


async def test_text_that_nobody_takes_keeps_an_upgrade_from_beginning() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with stream(ours) as (reader, writer):
            console = Console(reader, writer)
            await console.hold(timeout_s=1)
            console.release()
            await console.send("typed")
            with pytest.raises(DeadlineExceeded, match="the guest to read its console input"):
                await console.hold(timeout_s=0.05)
            theirs.recv(64)
            await console.hold(timeout_s=1)
            sending = asyncio.ensure_future(console.send("later"))
            await asyncio.sleep(0)
            assert not sending.done()
            console.release()
            await sending
            assert theirs.recv(64) == b"later"


@pytest.mark.fault("U8")
async def test_memory_that_was_freed_is_not_handed_out(
    files: RestrictedFiles, tmp_path: Path
) -> None:
    async with answering(tmp_path, FakeOwner(files, DONE)):
        files.free()
        with pytest.raises(OwnerError, match="its memory was freed"):
            await take_files(tmp_path)


@pytest.mark.fault("U5")
async def test_a_nested_request_is_answered_and_ends_nothing(
    files: RestrictedFiles, tmp_path: Path
) -> None:
    async with answering(tmp_path, FakeOwner(files, DONE)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(peer, str(tmp_path / OWNER_SOCKET))
            await loop.sock_sendall(peer, b'{"x":' * 10_000)
            answer = msgspec.json.decode(await loop.sock_recv(peer, 65536), type=Answer)
        assert str(answer.error).startswith("invalid request")
        assert await ask_to_upgrade(tmp_path, None, 5) == DONE
