# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM for code without async: a script, a notebook, a test.

    with SyncVm(kernel="vmlinuz", memory="1G") as vm:
        vm.wait_for("login:")
        vm.convert("16M+2M", "shared")

The VM lives in an event loop of its own, in a thread; a notebook's own loop is not in the way.
"""

import asyncio
import concurrent.futures
import re
from collections.abc import Coroutine, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar, final

from cvmlab.bootspec import AccessPolicy, BootSpec
from cvmlab.errors import VmExited
from cvmlab.handover import Upgrade
from cvmlab.journal import Journal
from cvmlab.launch import Setting
from cvmlab.operations import BackendInfo, Content, RangesLike, Target
from cvmlab.outcome import Outcome
from cvmlab.pages import Pages, StateRun
from cvmlab.ranges import GpaRange
from cvmlab.rundir import RunDir
from cvmlab.selection import Selection
from cvmlab.upgrade import UPGRADE_TIMEOUT_S
from cvmlab.vm import WAIT_TIMEOUT_S, Vm


T = TypeVar("T")


@final
class SyncVm:
    """Vm with methods that block; what they mean and raise is said there."""

    def __init__(
        self,
        spec: BootSpec | None = None,
        *,
        setting: Setting | None = None,
        paused: bool = False,
        **options: object,
    ) -> None:
        self._vm = Vm(spec, setting=setting, paused=paused, **options)
        # One worker, so that the thread that starts QEMU lives as long as the VM: the kernel
        # kills QEMU when that thread ends.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"cvmlab-{self._vm.name}")
        self._ready: Future[None] = Future()
        self._done: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    def __enter__(self) -> Self:
        """Boot; on failure, raise and leave nothing."""
        self._done = self._executor.submit(lambda: asyncio.run(self._live()))
        try:
            concurrent.futures.wait([self._ready, self._done], return_when=FIRST_COMPLETED)
            if self._done.done():
                self._done.result()
        except BaseException:
            self._end(cancel=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the VM; raise what went wrong in it, if nothing else is being raised."""
        if kind is not None and issubclass(kind, Exception):
            self.keep_run()
        self._end(cancel=kind is not None and not issubclass(kind, Exception))
        if kind is None:
            self._done.result()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        async with self._vm:
            self._ready.set_result(None)
            await self._leave.wait()

    def _end(self, *, cancel: bool) -> None:
        """Leave the VM's context, by the short way if *cancel*; return when nothing is left."""
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not self._done.done():
            action = task.cancel if cancel else self._leave.set
            loop.call_soon_threadsafe(action)
        self._executor.shutdown(wait=True)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._done.done():
            work.close()
            raise VmExited("the VM does not run", hint="use it inside `with SyncVm(...)`")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            self._done.result()  # a task of the VM failed: this says how
            raise VmExited("the VM was torn down") from None
        except KeyboardInterrupt:
            future.cancel()
            raise

    def keep_run(self) -> None:
        """Keep the run folder."""
        self._vm.keep_run()

    @property
    def started(self) -> bool:
        """Was there a boot, so that there is a run folder?"""
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
    def pages(self) -> Pages:
        return self._vm.pages

    @property
    def journal(self) -> Journal:
        return self._vm.journal

    @property
    def console_text(self) -> str:
        return self._vm.console.text

    @property
    def kernel_release(self) -> str | None:
        return self._vm.kernel_release

    @property
    def outcome(self) -> Outcome | None:
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

    def wait_exit(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> Outcome:
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

    def pause(self) -> None:
        self._call(self._vm.pause())

    def cont(self) -> None:
        self._call(self._vm.cont())

    def stop(self) -> Outcome:
        return self._call(self._vm.stop())
