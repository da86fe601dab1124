# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that are silent, slow or gone: the guest gets the interface's error, in time.

Meanwhile vCPUs, the monitor and conversions go on, and the host's threads are few.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.attestation.service_frames import read_frame, serve
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.states import PageState
from tests.qemu.bare import WORD
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.snp import GUEST_REQUEST, SHARED_MAP, SNP, Answer, Ghcb, to_shared
from tests.qemu.tdx import GET_QUOTE, RETRY, SHARED, SUCCESS, map_gpa, vmcall


pytestmark = pytest.mark.qemu

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUOTES_MAX = 16
UNAVAILABLE, ERROR = 1 << 63 | 1, 1 << 63
ANSWER_TIMEOUT_S = 15
QUICKLY_S = 5  # far below the deadline of a guest request, on a busy host
VMM_ERROR = 0xFFFFFFFF << 32
REQUEST, RESPONSE = page(0), page(1)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()  # to the end of the connection


async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_frame(reader)
    writer.write((4108).to_bytes(4, "big") + bytes(100))
    await silent(reader, writer)


async def hangs_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_frame(reader)


async def talks_too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_frame(reader)
    writer.write(b"\xff" * 64)
    await silent(reader, writer)


async def talks_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_frame(reader)
    writer.write((8).to_bytes(4, "big") + b"nonsense")
    await silent(reader, writer)


@contextmanager
def deaf(path: Path) -> Iterator[None]:
    """Listen and never accept, with a queue that is full."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(str(path))
        try:
            yield
        finally:
            for sock in waiting:
                sock.close()


def prepare_quotes(vm: BareMachine, number: int) -> None:
    """Have buffers for *number* requests."""
    vm.guest.done("map-shared", 47)
    assert map_gpa(vm.guest, SHARED | page(0), number * PAGE_SIZE) == SUCCESS
    for index in range(number):
        vm.guest.done("write", SHARED_MAP + page(index), 1)
        vm.guest.done("write", SHARED_MAP + page(index) + 16, 1024)


def threads(vm: BareMachine) -> int:
    return len(list(Path(f"/proc/{vm.process.pid}/task").iterdir()))


def ask(vm: BareMachine, index: int) -> int:
    return vmcall(vm.guest, GET_QUOTE, r12=SHARED | page(index), r13=PAGE_SIZE).r10


def status(vm: BareMachine, index: int) -> int:
    return vm.guest.value("read", SHARED_MAP + page(index) + 8)


async def answered(vm: BareMachine, index: int) -> int:
    """Return the status of a request when it has one."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        while (found := status(vm, index)) == WORD:
            await vm.info()
    return found


def quoting(path: Path, timeout_s: int = 1) -> dict[str, Any]:
    return {
        "coco": "tdx",
        "quote_socket": path,
        "guest_options": (f"quote-timeout={timeout_s}",),
    }


@pytest.mark.fault("Q6")
@pytest.mark.parametrize(
    "behaviour", [silent, half_an_answer, hangs_up, talks_too_much, talks_nonsense]
)
async def test_a_service_that_fails_ends_a_quote_with_an_error(
    boot: Boot, tmp_path: Path, behaviour: Behaviour
) -> None:
    path = tmp_path / "q.sock"
    async with serve(path, behaviour), boot(**quoting(path)) as vm:
        prepare_quotes(vm, 1)
        assert ask(vm, 0) == SUCCESS
        assert await answered(vm, 0) == ERROR
        assert vm.guest.value("read", SHARED_MAP + page(0) + 16) >> 32 == 0


@pytest.mark.fault("Q6")
async def test_a_service_that_does_not_accept_is_unavailable(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    with deaf(path):
        async with boot(**quoting(path)) as vm:
            prepare_quotes(vm, 1)
            for _ in range(2):
                assert ask(vm, 0) == SUCCESS
                assert await answered(vm, 0) == UNAVAILABLE


@pytest.mark.fault("Q6")
async def test_quotes_in_flight_are_as_many_as_a_kvm_host_has(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    async with serve(path, silent), boot(**quoting(path, 3600)) as vm:
        prepare_quotes(vm, QUOTES_MAX + 1)
        before = threads(vm)
        assert [ask(vm, index) for index in range(QUOTES_MAX)] == [SUCCESS] * QUOTES_MAX
        assert [ask(vm, QUOTES_MAX) for _ in range(20)] == [RETRY] * 20
        await vm.info()
        assert threads(vm) <= before + QUOTES_MAX
        # A guest that is launched anew has none in flight.
        await vm.qmp.execute("system_reset")
        await asyncio.to_thread(vm.guest.wait_hello)
        prepare_quotes(vm, 1)
        assert ask(vm, 0) == SUCCESS


@asynccontextmanager
async def asking(
    boot: Boot, path: Path, **options: Any
) -> AsyncIterator[tuple[BareMachine, "asyncio.Task[Answer]"]]:
    """Boot a guest that has made a guest request, and waits."""
    async with boot(**SNP, quote_socket=path, **options) as vm:
        ghcb = Ghcb(vm.guest)
        for gpa in (REQUEST, RESPONSE):
            to_shared(vm.guest, gpa)
        vm.guest.done("write", SHARED_MAP + REQUEST, 0x5EC)
        request = asyncio.create_task(
            asyncio.to_thread(ghcb.exit, GUEST_REQUEST, REQUEST, RESPONSE)
        )
        yield vm, request
        if not request.done():
            assert (await request).status == (0, VMM_ERROR)


class Told:
    """A service that gets a request, and answers when it is told to."""

    def __init__(self, *, answers: bool) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self._answers = answers

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader)  # the launch
        await read_frame(reader)
        self.asked.set()
        await self.go_on.wait()
        if self._answers:
            message = (3).to_bytes(4, "little") + bytes(4) + b"\x5a" * PAGE_SIZE
            writer.write(len(message).to_bytes(4, "big") + message)
            await silent(reader, writer)


@pytest.mark.fault("Q7")
async def test_a_guest_request_holds_nobody_up(boot: Boot, tmp_path: Path) -> None:
    service = Told(answers=False)
    async with (
        serve(tmp_path / "r.sock", service),
        asking(boot, tmp_path / "r.sock") as (vm, request),
    ):
        await service.asked.wait()
        async with asyncio.timeout(QUICKLY_S):
            assert await vm.convert("shared", page(100), count=8) == 8
            await vm.qmp.execute("stop")
            assert await vm.convert("private", page(100), count=8) == 8
            await vm.qmp.execute("cont")
            await vm.info()
        assert not request.done()
        service.go_on.set()
        assert (await request).status == (0, VMM_ERROR)
        assert vm.state(page(100)) is PageState.PENDING


@pytest.mark.fault("Q7")
async def test_an_answer_that_comes_while_the_vm_is_stopped_is_not_lost(
    boot: Boot, tmp_path: Path
) -> None:
    service = Told(answers=True)
    async with (
        serve(tmp_path / "r.sock", service),
        asking(boot, tmp_path / "r.sock") as (vm, request),
    ):
        await service.asked.wait()
        await vm.qmp.execute("stop")
        service.go_on.set()
        await vm.info()
        await vm.qmp.execute("cont")
        assert (await request).status == (0, 0)
        assert vm.guest.value("read", SHARED_MAP + RESPONSE) == 0x5A5A5A5A5A5A5A5A


@pytest.mark.fault("Q7")
async def test_another_vcpu_converts_while_one_waits(boot: Boot, tmp_path: Path) -> None:
    service = Told(answers=False)
    async with (
        serve(tmp_path / "r.sock", service),
        asking(boot, tmp_path / "r.sock", cpus=2) as (vm, request),
    ):
        await service.asked.wait()
        async with asyncio.timeout(QUICKLY_S):
            for number in range(8):
                await vm.convert("shared", page(100 + number))
        service.go_on.set()
        await request


@pytest.mark.fault("Q7")
async def test_a_reset_forgets_a_guest_request(boot: Boot, tmp_path: Path) -> None:
    service = Told(answers=False)
    async with (
        serve(tmp_path / "r.sock", service),
        boot(**SNP, quote_socket=tmp_path / "r.sock") as vm,
    ):
        ghcb = Ghcb(vm.guest)
        for gpa in (REQUEST, RESPONSE):
            to_shared(vm.guest, gpa)
        ghcb.prepare(GUEST_REQUEST, REQUEST, RESPONSE)
        vm.guest.start("vmgexit", ghcb.gpa)
        await service.asked.wait()
        await vm.qmp.execute("system_reset")
        await asyncio.to_thread(vm.guest.wait_hello)
        service.go_on.set()
        vm.guest.done("write", page(8), 1)


@pytest.mark.long
@pytest.mark.fault("Q7")
async def test_a_silent_service_is_given_up(boot: Boot, tmp_path: Path) -> None:
    async with (
        serve(tmp_path / "r.sock", silent),
        asking(boot, tmp_path / "r.sock") as (vm, request),
    ):
        vm.guest._deadline_s = 60.0
        assert (await request).status == (0, VMM_ERROR)
