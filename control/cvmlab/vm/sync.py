# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM for code without async: a script, a notebook, a test.

    with SyncVm(kernel="vmlinuz", memory="1G") as vm:
        vm.wait_for("login:")
        vm.convert("16M+2M", "shared")

The VM has its own event loop in a thread, so it also works in a notebook, which has a loop.
"""

import asyncio
import atexit
import concurrent.futures
import re
from collections.abc import Coroutine, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar, final

from cvmlab.base.errors import ConfigError, VmExited
from cvmlab.listening.command_output import CommandOutput
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.machine.spec import AccessPolicy, BootSpec
from cvmlab.memory.journal import Journal
from cvmlab.memory.page_check import StateRun
from cvmlab.memory.pages import Pages
from cvmlab.memory.ranges import GpaRange
from cvmlab.results.selection import Selection
from cvmlab.runs.run_dir import RunDir
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.unwind.modules import LoadedModule
from cvmlab.vm.handover import Upgrade
from cvmlab.vm.launch import Setting
from cvmlab.vm.operations import BackendInfo, Content, RangesLike, Target
from cvmlab.vm.outcome import VmOutcome
from cvmlab.vm.saving import SAVE_TIMEOUT_S, Saved
from cvmlab.vm.time_travel import Checkpoint, Rewound
from cvmlab.vm.upgrade import UPGRADE_TIMEOUT_S
from cvmlab.vm.vm import WAIT_TIMEOUT_S, Vm


T = TypeVar("T")


@final
class SyncVm:
    """Vm with blocking methods; Vm documents them."""

    def __init__(
        self,
        spec: BootSpec | None = None,
        *,
        setting: Setting | None = None,
        paused: bool = False,
        **options: object,
    ) -> None:
        self._vm = Vm(spec, setting=setting, paused=paused, **options)
        # The thread that starts QEMU lives as long as the VM: the kernel kills QEMU when it ends.  It
        # is a daemon, because the interpreter waits for others before it calls what atexit knows.
        self._thread: Thread | None = None
        self._ready: Future[None] = Future()
        self._done: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    def __enter__(self) -> Self:
        """Boot; on failure, raise and leave nothing behind.

        A VM that is never left is ended when the interpreter ends.
        """
        if self._thread is not None:
            raise ConfigError("this VM was entered before", hint="make a new SyncVm for each boot")
        self._thread = Thread(target=self._run, name=f"cvmlab-{self._vm.name}", daemon=True)
        self._thread.start()
        atexit.register(self._end, cancel=False)
        try:
            concurrent.futures.wait([self._ready, self._done], return_when=FIRST_COMPLETED)
            if self._done.done():
                self._done.result()
        except BaseException:
            self._end(cancel=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the VM; raise its error, unless another exception is already being raised."""
        if kind is not None and issubclass(kind, Exception):
            self.keep_run()
        self._end(cancel=kind is not None and not issubclass(kind, Exception))
        if kind is None:
            self._done.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 - it is raised where the VM is left
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        async with self._vm:
            self._ready.set_result(None)
            await self._leave.wait()

    def _end(self, *, cancel: bool) -> None:
        """Leave the VM's context, or cancel it; return when its thread has ended."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not self._done.done():
            action = task.cancel if cancel else self._leave.set
            loop.call_soon_threadsafe(action)
        if self._thread is not None:
            self._thread.join()
        atexit.unregister(self._end)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._done.done():
            work.close()
            raise VmExited("the VM is not running", hint="use it inside `with SyncVm(...)`")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            self._done.result()  # raises the error if a task of the VM failed
            raise VmExited("the VM was torn down") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def keep_run(self) -> None:
        """Keep the run folder."""
        self._vm.keep_run()

    @property
    def started(self) -> bool:
        """Whether the VM was started, so that there is a run folder."""
        return self._vm.started

    @property
    def spec(self) -> BootSpec:
        return self._vm.spec

    @property
    def name(self) -> str:
        return self._vm.name

    @property
    def run(self) -> RunDir:
        return self._vm.run

    @property
    def memory_files(self) -> RestrictedFiles:
        return self._vm.memory_files

    @property
    def guest_modules(self) -> tuple[LoadedModule, ...]:
        return self._vm.guest_modules

    @property
    def pages(self) -> Pages:
        return self._vm.pages

    @property
    def journal(self) -> Journal:
        return self._vm.journal

    @property
    def console_text(self) -> str:
        return self._vm.console.text

    @property
    def command_output(self) -> CommandOutput:
        return self._vm.command_output

    @property
    def kernel_release(self) -> str | None:
        return self._vm.kernel_release

    @property
    def kernel_trouble(self) -> tuple[str, ...]:
        return self._vm.kernel_trouble

    @property
    def outcome(self) -> VmOutcome | None:
        return self._vm.outcome

    @property
    def last_info(self) -> BackendInfo | None:
        return self._vm.last_info

    def wait_for(
        self, pattern: str, *, fail: Sequence[str] = (), timeout_s: float = WAIT_TIMEOUT_S
    ) -> re.Match[str]:
        return self._call(self._vm.wait_for(pattern, fail=fail, timeout_s=timeout_s))

    def wait_hello(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> str:
        return self._call(self._vm.wait_hello(timeout_s=timeout_s))

    def wait_exit(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> VmOutcome:
        return self._call(self._vm.wait_exit(timeout_s=timeout_s))

    def select(self, **conditions: str | GpaRange | None) -> Selection:
        return self._call(self._vm.select(**conditions))

    def send(self, text: str) -> None:
        self._call(self._vm.send(text))

    def convert(
        self, ranges: RangesLike, to: Target | str, *, content: Content | str | None = None
    ) -> int:
        return self._call(self._vm.convert(ranges, to, content=content))

    def accept(self, ranges: RangesLike) -> int:
        return self._call(self._vm.accept(ranges))

    def discard(self, ranges: RangesLike) -> int:
        return self._call(self._vm.discard(ranges))

    def poison(self, ranges: RangesLike) -> int:
        return self._call(self._vm.poison(ranges))

    def set_policy(self, policy: AccessPolicy | str) -> None:
        self._call(self._vm.set_policy(policy))

    def query(self) -> BackendInfo:
        return self._call(self._vm.query())

    def query_runs(self, within: GpaRange | None = None, *, limit: int = 4096) -> list[StateRun]:
        return self._call(self._vm.query_runs(within, limit=limit))

    def qmp(self, name: str, **arguments: object) -> Any:
        return self._call(self._vm.qmp(name, **arguments))

    def upgrade(self, qemu: Path | None = None, *, timeout_s: float = UPGRADE_TIMEOUT_S) -> Upgrade:
        return self._call(self._vm.upgrade(qemu, timeout_s=timeout_s))

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        return self._call(self._vm.checkpoint(name))

    def rewind(self, to: Checkpoint | str) -> Rewound:
        return self._call(self._vm.rewind(to))

    def drop_checkpoint(self, which: Checkpoint | str) -> None:
        self._call(self._vm.drop_checkpoint(which))

    def checkpoints(self) -> list[Checkpoint]:
        return self._call(self._vm.checkpoints())

    @classmethod
    def restore(
        cls, saved: SnapshotFolder | Path | str, *, paused: bool | None = None, **setting: object
    ) -> Self:
        return cls._around(Vm.restore(saved, paused=paused, **setting))

    @classmethod
    def _around(cls, vm: Vm) -> Self:
        made = cls(vm.spec, setting=vm.setting)
        made._vm = vm
        return made

    def save(
        self, place: str | Path, *, compress: bool = False, timeout_s: float = SAVE_TIMEOUT_S
    ) -> Saved:
        return self._call(self._vm.save(place, compress=compress, timeout_s=timeout_s))

    def fork(self, count: int = 1, **setting: object) -> "list[SyncVm]":
        return [SyncVm._around(vm) for vm in self._call(self._vm.fork(count, **setting))]

    def pause(self) -> None:
        self._call(self._vm.pause())

    def cont(self) -> None:
        self._call(self._vm.cont())

    def stop(self) -> VmOutcome:
        return self._call(self._vm.stop())
