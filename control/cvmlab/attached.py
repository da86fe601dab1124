# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM that runs in another terminal, reached through its run folder."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import final

from cvmlab.errors import ConfigError
from cvmlab.files import RestrictedFiles
from cvmlab.journal import Ring
from cvmlab.machine import BackendFds
from cvmlab.operations import Operations, one_backend
from cvmlab.pages import Pages
from cvmlab.qmp import DEFAULT_TIMEOUT_S, Qmp
from cvmlab.rundir import Run, find_running


@final
class AttachedVm(Operations):
    """The operations and the pages of somebody else's VM; leaving it does not stop it."""

    def __init__(
        self, run: Run, connection: Qmp, memory: tuple[RestrictedFiles, Pages] | None
    ) -> None:
        super().__init__(connection.execute)
        self.run = run
        self.connection = connection
        self._memory = memory
        self.ram = () if memory is None else tuple(slot.range for slot in memory[1].slots)

    @property
    def name(self) -> str:
        return self.run.info.name

    @property
    def pages(self) -> Pages:
        return self._require_memory()[1]

    @property
    def memory_files(self) -> RestrictedFiles:
        return self._require_memory()[0]

    def _require_memory(self) -> tuple[RestrictedFiles, Pages]:
        if self._memory is None:
            raise ConfigError(f"the VM {self.name!r} has no restricted memory")
        return self._memory

    async def stop(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Tell QEMU to quit; its owner sees a VM that was stopped."""
        await self.connection.quit(timeout_s=timeout_s)
        await self.connection.wait_closed()


@asynccontextmanager
async def attach(name: str, *, where: Path | None = None) -> AsyncIterator[AttachedVm]:
    """Attach to the running VM *name*, as find_running() finds it."""
    run = find_running(name, where)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(Qmp.connect(run.path / "qmp.sock"))
        memory = None
        if run.info.files is not None:
            memory = await _memory(stack, run, connection)
        yield AttachedVm(run, connection, memory)


async def _memory(
    stack: AsyncExitStack, run: Run, connection: Qmp
) -> tuple[RestrictedFiles, Pages]:
    numbers = run.info.files
    if numbers is None:
        raise AssertionError
    fds = BackendFds(numbers.private, numbers.shared, numbers.table, numbers.ring)
    files = stack.enter_context(
        RestrictedFiles.of_process(run.info.qemu.pid, run.info.memory_bytes, fds)
    )
    ring = Ring(files.fds.ring)
    stack.callback(ring.close)
    info = one_backend(await connection.execute("query-restricted-memory"))
    return files, Pages(ring, files.page_table(), info.memory_slots)
