# SPDX-License-Identifier: GPL-2.0-or-later
"""What only the owner of a VM can do, asked from another terminal over a socket in the run folder.

One message asks, one answers (SOCK_SEQPACKET).  Who may connect is said by the socket's mode, 0600:
the same user, and root.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Protocol, assert_never

import msgspec

from cvmlab.errors import ConfigError, CvmError, DeadlineExceeded, VmExited
from cvmlab.files import RestrictedFiles
from cvmlab.handover import Upgrade
from cvmlab.machine import BackendFds


OWNER_SOCKET = "own.sock"
_MESSAGE_BYTES = 65536
_FILES = 4
_ANSWER_MARGIN_S = 60.0  # what an upgrade may need beyond its own deadline, to go back


class UpgradeRequest(msgspec.Struct, frozen=True, tag="upgrade"):
    """Replace QEMU by ``qemu``, or by the same program."""

    qemu: str | None
    timeout_s: float


class FilesRequest(msgspec.Struct, frozen=True, tag="files"):
    """Send the memory files."""


Request = UpgradeRequest | FilesRequest


class Answer(msgspec.Struct, frozen=True):
    """What came of it.  With the size come the files' descriptors: private, shared if there is one, table, ring."""

    error: str | None = None
    hint: str | None = None
    exit_code: int = 0
    upgrade: Upgrade | None = None
    memory_bytes: int = 0


class OwnerError(CvmError):
    """The owner of a VM did not do what it was asked for; the message is the owner's."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.error or "no reason was given", hint=answer.hint)
        self.exit_code = answer.exit_code


class Owner(Protocol):
    """Vm, or something that can do the same."""

    @property
    def memory_files(self) -> RestrictedFiles: ...

    async def upgrade(self, qemu: Path | None = None, *, timeout_s: float = ...) -> Upgrade: ...


@asynccontextmanager
async def answering(run: Path, owner: Owner) -> AsyncIterator[None]:
    """Answer requests in the run folder *run* until the block is left."""
    path = run / OWNER_SOCKET
    path.unlink(missing_ok=True)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
        task = asyncio.create_task(_accept(listener, owner), name="owner socket")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            path.unlink(missing_ok=True)
    if not task.cancelled():
        task.result()


async def _answer(owner: Owner, request: Request) -> tuple[Answer, Sequence[int]]:
    match request:
        case UpgradeRequest(qemu, timeout_s):
            chosen = None if qemu is None else Path(qemu)
            return Answer(upgrade=await owner.upgrade(chosen, timeout_s=timeout_s)), ()
        case FilesRequest():
            files = owner.memory_files
            return Answer(memory_bytes=files.size_bytes), files.fds.all
        case _:
            assert_never(request)


async def _accept(listener: socket.socket, owner: Owner) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        while True:
            peer, _ = await loop.sock_accept(listener)
            group.create_task(_answer_one(peer, owner))


async def _answer_one(peer: socket.socket, owner: Owner) -> None:
    loop = asyncio.get_running_loop()
    with closing(peer):
        peer.setblocking(False)
        fds: Sequence[int] = ()
        try:
            message = await loop.sock_recv(peer, _MESSAGE_BYTES)
            reply, fds = await _answer(owner, msgspec.json.decode(message, type=Request))
        except msgspec.MsgspecError as error:
            reply = Answer(error=f"this is no request: {error}", exit_code=ConfigError.exit_code)
        except CvmError as error:
            reply = Answer(error=error.message, hint=error.hint, exit_code=error.exit_code)
        except OSError:
            return
        # Whoever asked may be gone by now.
        with suppress(OSError):
            socket.send_fds(peer, [msgspec.json.encode(reply)], list(fds))


async def ask_to_upgrade(run: Path, qemu: Path | None, timeout_s: float) -> Upgrade:
    """Have the owner of the VM in the run folder *run* replace its QEMU.

    *qemu* is an absolute path.

    :raise OwnerError: what Vm.upgrade() raised there.
    """
    request = UpgradeRequest(None if qemu is None else str(qemu), timeout_s)
    answer, _ = await _ask(run, request, timeout_s + _ANSWER_MARGIN_S)
    if answer.upgrade is None:
        raise VmExited("the VM's owner answered something else")
    return answer.upgrade


async def take_files(run: Path, *, timeout_s: float = 30.0) -> RestrictedFiles:
    """Return the memory files of the VM in *run*, as descriptors of our own (SCM_RIGHTS)."""
    answer, fds = await _ask(run, FilesRequest(), timeout_s)
    private, *shared, table, ring = fds
    numbers = BackendFds(private, shared[0] if shared else None, table, ring)
    return RestrictedFiles.taken(answer.memory_bytes, numbers)


async def _ask(run: Path, request: Request, timeout_s: float) -> tuple[Answer, list[int]]:
    loop = asyncio.get_running_loop()
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(sock, str(run / OWNER_SOCKET))
                await loop.sock_sendall(sock, msgspec.json.encode(request))
                await _readable(sock)
        except TimeoutError as error:
            raise DeadlineExceeded("the VM's owner to answer", timeout_s) from error
        except OSError as error:
            raise ConfigError(
                f"the VM's owner does not answer: {error.strerror}",
                hint="`cvmlab ps` lists the VMs that run",
            ) from error
        data, fds, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, _FILES)
    if not data:
        raise VmExited("the VM ended before its owner had answered")
    answer = msgspec.json.decode(data, type=Answer)
    if answer.error is not None:
        raise OwnerError(answer)
    return answer, fds


async def _readable(sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
