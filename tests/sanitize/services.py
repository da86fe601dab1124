# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile attestation service: silence, garbage, truncation, endless answers, by a seed."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cvmlab.attestation.service_frames import BadFrameError, read_frame, serve


BEHAVIOURS = (
    "hangs up", "is silent", "half a length", "half an answer", "garbage", "a wrong length",
    "nothing in it", "right size, garbage", "two answers",
)  # fmt: skip
WHOLE = ("nothing in it", "right size, garbage")
SILENCE_S = 0.05
_REPORT_BYTES = 4096 + 8


@asynccontextmanager
async def hostile_service(path: Path, seed: int, asked: Counter[str]) -> AsyncIterator[None]:
    """Serve *path*; count in *asked* what was done to each request."""
    generator = random.Random(seed)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await read_frame(reader)
                behaviour = generator.choice(BEHAVIOURS)
                asked[behaviour] += 1
                if behaviour == "hangs up":
                    return
                if behaviour == "is silent":
                    await asyncio.sleep(SILENCE_S)
                    return
                writer.write(answer(generator, behaviour, request))
                await writer.drain()
                if behaviour not in WHOLE:
                    await asyncio.sleep(SILENCE_S)  # QEMU waits for the rest
                    return
        except BadFrameError:
            asked["a request that is no frame"] += 1

    async with serve(path, client):
        yield


def answer(generator: random.Random, behaviour: str, request: bytes) -> bytes:
    """Return the bytes that a hostile service sends."""

    def frame(size: int) -> bytes:
        return size.to_bytes(4, "big") + generator.randbytes(size)

    wrong_sizes = (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\1\0\1")
    answers: dict[str, Callable[[], bytes]] = {
        "half a length": lambda: b"\0\0",
        "half an answer": lambda: frame(4108)[: generator.randrange(5, 4108)],
        "garbage": lambda: generator.randbytes(generator.randrange(1, 9000)),
        "a wrong length": lambda: generator.choice(wrong_sizes) + bytes(64),
        "nothing in it": lambda: bytes(4),
        "right size, garbage": lambda: frame(
            generator.choice([_REPORT_BYTES, len(request), 1024, 64])
        ),
        "two answers": lambda: frame(_REPORT_BYTES) * 2,
    }
    return answers[behaviour]()
