# SPDX-License-Identifier: GPL-2.0-or-later
"""Services for the plugin on a Unix socket: each message follows its length, 4 bytes, big-endian."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final


MAX_MESSAGE_BYTES: Final = 64 << 10

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class BadFrameError(ConnectionError):
    """The client does not follow the protocol: its connection is closed."""


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next message; raise BadFrameError if it is too long, IncompleteReadError at the end."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_MESSAGE_BYTES:
        raise BadFrameError(f"a message of {size} bytes")
    return await reader.readexactly(size)


async def pause(seconds: float) -> None:
    """Wait, for ever if *seconds* is infinite; the end of the service ends it."""
    if math.isinf(seconds):
        await asyncio.Event().wait()
    await asyncio.sleep(seconds)


async def write_frame(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Send *message*."""
    writer.write(len(message).to_bytes(4, "big") + message)
    await writer.drain()


@contextlib.asynccontextmanager
async def serve(path: Path, client: Client) -> AsyncIterator[Path]:
    """Run *client* for each connection to *path*; the end of the block closes the rest."""
    clients: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await client(reader, writer)
        await close(writer)
        del clients[writer]

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients[writer] = asyncio.get_running_loop().create_task(attend(reader, writer))

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield path
    finally:
        server.close()
        left = dict(clients)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        await asyncio.gather(*map(close, left))
        await server.wait_closed()
