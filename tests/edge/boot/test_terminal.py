# SPDX-License-Identifier: GPL-2.0-or-later
"""What is typed arrives, and nothing waits for the next key."""

import asyncio
import os
from pathlib import Path

import pytest

from cvmlab.boot.terminal import Typed


async def test_every_piece_arrives_and_the_loop_runs_on_while_nothing_is_typed() -> None:
    theirs, ours = os.pipe()
    typed = Typed(theirs)
    try:
        for piece in (b"a", b"b\r", b"\x1b[1;1R"):
            os.write(ours, piece)
            assert await typed.get() == piece
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await typed.get()
        os.close(ours)
        assert await typed.get() == b""
    finally:
        os.close(theirs)


async def test_a_file_is_typed_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"x" * 5000)
    with path.open("rb") as file:
        typed = Typed(file.fileno())
        data = b"".join([await typed.get(), await typed.get()])
        assert data == path.read_bytes()
        assert await typed.get() == b""


@pytest.mark.fault("U11")
async def test_what_nobody_takes_is_not_read() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)

    def fill() -> int:
        sent = 0
        try:
            while sent < 16 << 20:
                sent += os.write(ours, bytes(65536))
        except BlockingIOError:
            pass
        return sent

    try:
        first = fill()
        assert len(await Typed(theirs).get()) == 4096
        assert first + fill() < 1 << 20, "it was read ahead"
    finally:
        os.close(ours)
        os.close(theirs)
