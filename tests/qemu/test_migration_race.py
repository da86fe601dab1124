# SPDX-License-Identifier: GPL-2.0-or-later
"""No mode that a migration gets after it was asked for sends private RAM.

QEMU looks at the mode when it is asked to migrate, and again when it sends.  In between is a client
that listens at both sockets: it changes the mode, and then closes the first one.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cvmlab.memory.records import Actor, Kind, Verdict
from cvmlab.qemu.build import rom_dirs
from tests.qemu.bare import BareGuest
from tests.qemu.bare_machine import page
from tests.qemu.conftest import Boot
from tests.qemu.plain import machine, plain_qemu


pytestmark = pytest.mark.qemu

DEADLINE_S = 20.0
OVER = ("failed", "completed", "cancelled")
Command = Callable[..., Coroutine[Any, Any, Any]]


async def steal(command: Command, folder: Path, mode: str) -> tuple[bytes, str]:
    """Migrate with *mode* set behind QEMU's back; return the stream, and how it ended."""
    taken = bytearray()
    offered, done = asyncio.Event(), asyncio.Event()
    first: list[asyncio.StreamWriter] = []

    async def on_offer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(writer)
        offered.set()

    async def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            taken.extend(data)
        writer.close()
        done.set()

    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        for name, handler in (("cpr", on_offer), ("main", on_stream)):
            server = await asyncio.start_unix_server(handler, folder / f"{name}.sock")
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
        await command("migrate-set-parameters", mode="cpr-transfer")
        await command("migrate", channels=[channel("cpr", folder), channel("main", folder)])
        await offered.wait()
        await command("migrate-set-parameters", mode=mode)
        first[0].close()
        await done.wait()
        while (status := (await command("query-migrate")).get("status")) not in OVER:
            pass
    return bytes(taken), status


def channel(kind: str, folder: Path) -> dict[str, object]:
    address = {"transport": "socket", "type": "unix", "path": str(folder / f"{kind}.sock")}
    return {"channel-type": kind, "addr": address}


@pytest.mark.fault("L1")
@pytest.mark.parametrize("mode", ["normal", "cpr-reboot"])
@pytest.mark.parametrize("coco", ["generic", "sw-protected", "tdx"])
async def test_the_stream_has_no_private_memory_and_the_attempt_is_journaled(
    boot: Boot, tmp_path: Path, coco: str, mode: str
) -> None:
    secret = secrets.token_bytes(32)
    async with boot(coco=coco) as vm:

        async def command(name: str, **arguments: Any) -> Any:
            return await vm.qmp.execute(name, arguments)

        vm.guest.write_bytes(page(0), secret)
        await vm.events()
        stream, status = await steal(command, tmp_path, mode)
        assert (secret in stream, status) == (False, "failed")
        (event,) = await vm.events()
        assert (event.kind, event.actor, event.verdict) == (
            Kind.HOST_FAULT, Actor.HOST, Verdict.DENY,
        )  # fmt: skip
        await vm.qmp.execute("cont")
        assert vm.guest.read_bytes(page(0), 32) == secret


async def test_control_the_stream_of_an_unrestricted_machine_has_it(
    patched_qemu: Path, bare_elf: Path, tmp_path: Path
) -> None:
    secret = secrets.token_bytes(32)
    command_line = [
        *machine(patched_qemu, rom_dirs(), backend=None), "-machine", "aux-ram-share=on",
        "-object", "memory-backend-memfd,id=ram1,size=64M,share=on",
        "-machine", "memory-backend=ram1", "-kernel", str(bare_elf),
    ]  # fmt: skip
    with plain_qemu(command_line, tmp_path) as qemu, qemu.qmp() as qmp:

        async def command(name: str, **arguments: Any) -> Any:
            return await asyncio.to_thread(qmp.command, name, **arguments)

        guest = BareGuest(qemu.agent)
        guest.wait_hello()
        guest.write_bytes(page(0), secret)
        stream, status = await steal(command, tmp_path, "normal")
        assert (secret in stream, status) == (True, "completed")
        qmp.command("quit")
        assert qemu.wait() == 0
