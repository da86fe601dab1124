# SPDX-License-Identifier: GPL-2.0-or-later
"""What is typed arrives, and nothing waits for the next key."""

import asyncio
import os
from pathlib import Path

import pytest

from cvmlab.terminal import typed_on


async def test_every_piece_arrives_and_the_loop_runs_on_while_nothing_is_typed() -> None:
    theirs, ours = os.pipe()
    try:
        with typed_on(theirs) as typed:
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
    with path.open("rb") as file, typed_on(file.fileno()) as typed:
        data = b"".join([await typed.get(), await typed.get()])
        assert data == path.read_bytes()
        assert await typed.get() == b""
