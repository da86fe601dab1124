# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that only the owner of a VM can serve, over a socket in the run folder.

One message is the request, one the answer (SOCK_SEQPACKET).  The socket's mode 0600 admits the same
user and root.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, assert_never

import msgspec

from cvmlab.base.documents import NO_DOCUMENT
from cvmlab.base.errors import ConfigError, CvmError, DeadlineExceeded, VmExited
from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.vm.handover import Upgrade
from cvmlab.vm.saving import Saved


OWNER_SOCKET = "own.sock"
_MESSAGE_BYTES = 65536
_FILES = 5
_ANSWER_MARGIN_S = 60.0  # an upgrade may take longer than its deadline, to return to the old QEMU


class UpgradeRequest(msgspec.Struct, frozen=True, tag="upgrade"):
    """Replace QEMU by ``qemu``, or by the same program."""

    qemu: str | None
    timeout_s: float


class FilesRequest(msgspec.Struct, frozen=True, tag="files"):
    """Send the memory files."""


class SaveRequest(msgspec.Struct, frozen=True, tag="save"):
    """Save the VM in the folder ``place``, an absolute path where nothing is."""

    place: str
    compress: bool
    timeout_s: float


Request = UpgradeRequest | FilesRequest | SaveRequest


class Answer(msgspec.Struct, frozen=True):
    """The answer.  ``files`` are the names of the descriptors that come with it, in order."""

    error: str | None = None
    hint: str | None = None
    exit_code: int = 0
    upgrade: Upgrade | None = None
    saved: Saved | None = None
    memory_bytes: int = 0
    files: tuple[str, ...] = ()


class OwnerError(CvmError):
    """The owner of a VM refused or failed a request; the message is the owner's."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.error or "no reason was given", hint=answer.hint)
        self.exit_code = answer.exit_code


class Owner(Protocol):
    """The part of Vm that answers requests."""

    @property
    def memory_files(self) -> RestrictedFiles: ...

    async def upgrade(self, qemu: Path | None = None, *, timeout_s: float = ...) -> Upgrade: ...

    async def save(
        self, place: str | Path, *, compress: bool = ..., timeout_s: float = ...
    ) -> Saved: ...


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
        case SaveRequest(place, compress, timeout_s):
            saved = await owner.save(Path(place), compress=compress, timeout_s=timeout_s)
            return Answer(saved=saved), ()
        case FilesRequest():
            files = owner.memory_files
            if files.freed:
                raise VmExited("the VM's QEMU has died, and its memory was freed")
            held = {name: fd for name, fd in asdict(files.fds).items() if fd is not None}
            answer = Answer(memory_bytes=files.size_bytes, files=tuple(held))
            return answer, tuple(held.values())
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
        except OSError:
            return
        try:
            reply, fds = await _answer(owner, msgspec.json.decode(message, type=Request))
        except NO_DOCUMENT as error:
            reply = Answer(error=f"invalid request: {error}", exit_code=ConfigError.exit_code)
        except CvmError as error:
            reply = Answer(error=error.message, hint=error.hint, exit_code=error.exit_code)
        # The client may have disconnected.
        with suppress(OSError):
            socket.send_fds(peer, [msgspec.json.encode(reply)], list(fds))


async def ask_to_upgrade(run: Path, qemu: Path | None, timeout_s: float) -> Upgrade:
    """Ask the owner of the VM in the run folder *run* to replace its QEMU.

    *qemu* is an absolute path.

    :raise OwnerError: Vm.upgrade() failed there.
    """
    request = UpgradeRequest(None if qemu is None else str(qemu), timeout_s)
    answer, _ = await _ask(run, request, timeout_s + _ANSWER_MARGIN_S)
    if answer.upgrade is None:
        raise VmExited("the VM's owner sent another answer")
    return answer.upgrade


async def ask_to_save(run: Path, place: Path, *, compress: bool, timeout_s: float) -> Saved:
    """Ask the owner of the VM in the run folder *run* to save it in *place*.

    :raise OwnerError: Vm.save() failed there.
    """
    request = SaveRequest(str(place), compress, timeout_s)
    answer, _ = await _ask(run, request, timeout_s + _ANSWER_MARGIN_S)
    if answer.saved is None:
        raise VmExited("the VM's owner sent another answer")
    return answer.saved


async def take_files(run: Path, *, timeout_s: float = 30.0) -> RestrictedFiles:
    """Return the memory files of the VM in *run*, as descriptors of this process (SCM_RIGHTS)."""
    answer, fds = await _ask(run, FilesRequest(), timeout_s)
    numbers = dict(zip(answer.files, fds, strict=True))
    return RestrictedFiles.taken(answer.memory_bytes, BackendFds.of(numbers))


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
        raise VmExited("the VM ended before its owner answered")
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
