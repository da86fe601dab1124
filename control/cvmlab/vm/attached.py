# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM of another process, reached through its run folder."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import final

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import BackendFds
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.memory.journal import Ring
from cvmlab.memory.pages import Pages
from cvmlab.runs.run_dir import FoundRun, MemoryFiles, find_running
from cvmlab.vm.operations import one_backend
from cvmlab.vm.qmp import DEFAULT_TIMEOUT_S, Qmp
from cvmlab.vm.time_travel import TimeTravel


@final
class AttachedVm(TimeTravel):
    """The operations and the pages of another process's VM; detaching does not stop it."""

    def __init__(
        self, run: FoundRun, connection: Qmp, memory: tuple[RestrictedFiles, Pages] | None
    ) -> None:
        super().__init__(connection.execute)
        self.run = run
        self.folder = run.path
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
        """Tell QEMU to quit; the owner reports a stopped VM."""
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
            memory = await _memory(stack, run, run.info.files, connection)
        yield AttachedVm(run, connection, memory)


async def _memory(
    stack: AsyncExitStack, run: FoundRun, numbers: MemoryFiles, connection: Qmp
) -> tuple[RestrictedFiles, Pages]:
    fds = BackendFds(numbers.private, numbers.shared, numbers.table, numbers.ring, numbers.stacks)
    files = stack.enter_context(
        RestrictedFiles.of_process(run.info.qemu.pid, run.info.memory_bytes, fds)
    )
    ring = Ring(files.fds.ring)
    stack.callback(ring.close)
    info = one_backend(await connection.execute("query-restricted-memory"))
    return files, Pages(ring, files.page_table(), info.memory_slots)
