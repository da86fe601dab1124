# SPDX-License-Identifier: GPL-2.0-or-later
"""One VM: its files, its process, its connections and its tasks, owned by one context::

    async with Vm(kernel="vmlinuz", memory="1G") as vm:
        await vm.wait_for("login:")
        await vm.convert("16M+2M", "shared")
        print(vm.pages.counts())

Whatever happens, and whenever it is cancelled: when the context is left there is no process, no
descriptor and, unless something failed, no file.
"""

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from cvmlab.attached import AttachedVm, attach
from cvmlab.bootspec import BootSpec
from cvmlab.channel import Subscription
from cvmlab.console import Console
from cvmlab.errors import ConfigError, CvmError, DeadlineExceeded, MarkerNotSeen, VmExited
from cvmlab.files import RestrictedFiles
from cvmlab.handover import Upgrade
from cvmlab.journal import Journal, JournalFile, Records
from cvmlab.launch import Memory, Parts, Setting, launch, locate_qemu
from cvmlab.operations import BackendInfo, Operations
from cvmlab.options import boot_spec
from cvmlab.outcome import End, Outcome
from cvmlab.ownersocket import answering
from cvmlab.pages import Pages
from cvmlab.qmp import DEFAULT_TIMEOUT_S, QmpEvent
from cvmlab.ranges import GpaRange
from cvmlab.rundir import RunDir
from cvmlab.selection import Selection
from cvmlab.supervisor import Supervisor
from cvmlab.upgrade import UPGRADE_TIMEOUT_S, Replacement, require_upgradable, retire


WAIT_TIMEOUT_S = 120.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")


@final
class Vm(Operations):
    """A VM that runs for as long as its ``async with`` block.

    Its end is decided once, by whichever comes first: the guest's power-off, stop(), or the death
    of QEMU; then everything is drained, QEMU is told to quit, and wait_exit() returns.
    """

    def __init__(
        self,
        spec: BootSpec | None = None,
        *,
        setting: Setting | None = None,
        paused: bool = False,
        **options: object,
    ) -> None:
        """Describe the VM by *spec*, or by *options* as boot_spec() takes them; start nothing.

        Options that Setting has, such as ``name``, ``keep`` and ``run_dir``, may be among
        *options*.  *paused* leaves the CPUs stopped until cont().
        """
        super().__init__(self._command)
        mine = {key: options.pop(key) for key in Setting.__slots__ if key in options}
        if (spec is not None and options) or (setting is not None and mine):
            raise ConfigError("a VM is described by values or by options, not by both")
        self.spec = spec or boot_spec(**options)
        self.setting = setting or Setting(**mine)  # type: ignore[arg-type]
        if not _NAME.fullmatch(self.setting.name):
            raise ConfigError(
                f"{self.setting.name!r} cannot name a VM", hint="use letters, digits, - and _"
            )
        self._paused = paused
        self._keep = self.setting.keep
        self._stack = AsyncExitStack()
        self._run: RunDir | None = None
        self._parts: Parts | None = None
        self._supervisor: Supervisor | None = None
        self._later = AsyncExitStack()
        self._upgrades = 0
        self._settled = asyncio.Event()
        self._settled.set()

    @staticmethod
    def attach(name: str) -> AbstractAsyncContextManager[AttachedVm]:
        """Operate the running VM *name* of another process: ``async with Vm.attach("vm") as vm``."""
        return attach(name)

    async def __aenter__(self) -> Self:
        """Boot; on failure, raise and leave nothing."""
        try:
            await self._start()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the VM if it still runs.  Never leaves anything behind, even if cancelled in here."""
        try:
            if not isinstance(error, asyncio.CancelledError):
                await self._stop()
        finally:
            if self._parts is not None:
                self._parts.process.kill()
            await self._unwind(kind, error, trace)

    async def _start(self) -> None:
        self.spec.validate()
        self._run = RunDir.create(self.setting.name, self.setting.run_dir)
        self._stack.push(self._close_run)
        self._parts = parts = await launch(self._stack, self.spec, self.setting, self._run)
        if parts.memory is not None:
            self.ram = tuple(slot.range for slot in parts.memory.pages.slots)
        supervisor = Supervisor(parts, stop_timeout_s=self.setting.stop_timeout_s)
        self._supervisor = supervisor
        await self._stack.enter_async_context(self._later)
        await self._later.enter_async_context(answering(self._run.path, self))
        # Entered last, so that no task is left when the parts that it uses are closed.
        supervisor.start(await self._stack.enter_async_context(asyncio.TaskGroup()))
        if not self._paused:
            await self.cont()

    async def _unwind(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo everything.  An error of the body stays what it is, one of a task explains it."""
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            ours = [found for found in group.exceptions if found is not error]
            if ours:
                raise _most_telling(ours, group) from error

    def _close_run(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._run is not None:
            failed = kind is not None and not issubclass(
                kind, asyncio.CancelledError | KeyboardInterrupt | SystemExit | GeneratorExit
            )
            ended_badly = self.outcome is not None and self.outcome.failed
            self._run.close(keep=self._keep or failed or ended_badly)

    def keep_run(self) -> None:
        """Keep the run folder."""
        self._keep = True

    # What it is made of

    @property
    def started(self) -> bool:
        """Was there a boot, so that there is a run folder?"""
        return self._run is not None

    @property
    def run(self) -> RunDir:
        """The run folder; readable after the end, though the folder may be gone."""
        if self._run is None:
            raise VmExited("the VM was never started")
        return self._run

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def _running(self) -> Parts:
        if self._parts is None:
            raise VmExited("the VM was never started", hint="use it inside `async with Vm(...)`")
        return self._parts

    @property
    def _memory(self) -> Memory:
        memory = self._running.memory
        if memory is None:
            raise ConfigError(
                "this VM has no restricted memory", hint="boot it with --coco generic"
            )
        return memory

    @property
    def console(self) -> Console:
        return self._running.console

    @property
    def pages(self) -> Pages:
        """States and counts, live, until the context is left."""
        return self._memory.pages

    @property
    def journal(self) -> Journal:
        return self._memory.journal

    @property
    def kernel_release(self) -> str | None:
        """What the guest's agent said, None until it did."""
        return self._running.agent.release

    @property
    def qemu_version(self) -> str:
        return self._running.qemu_version

    @property
    def qemu_pid(self) -> int:
        return self._running.process.pid

    @property
    def memory_files(self) -> RestrictedFiles:
        return self._memory.files

    @property
    def outcome(self) -> Outcome | None:
        """How the VM ended, None while it runs."""
        return None if self._supervisor is None else self._supervisor.outcome

    @property
    def last_info(self) -> BackendInfo | None:
        """What query() said at the guest's end, just before QEMU was told to quit."""
        return None if self._supervisor is None else self._supervisor.last_info

    # What it is asked

    async def _command(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        await self._wait_settled(timeout_s)
        parts = self._running
        try:
            return await parts.connection.execute(command, arguments, timeout_s=timeout_s)
        except VmExited as error:
            error.status = await parts.process.wait_for(self.setting.stop_timeout_s)
            error.log_tail = tuple(parts.process.log_tail())
            error.hint = error.hint or f"the run folder is {parts.run.path}"
            raise

    async def wait_for(
        self, pattern: str, *, fail: Sequence[str] = (), timeout_s: float = WAIT_TIMEOUT_S
    ) -> re.Match[str]:
        """Wait for *pattern* on the console; errors are those of Console.wait_for().

        If QEMU died before, VmExited.
        """
        try:
            return await self.console.wait_for(pattern, fail=fail, timeout_s=timeout_s)
        except MarkerNotSeen:
            outcome = await self._outcome_soon()
            if outcome is None:
                raise
            raise _never_seen(pattern, outcome, self._running) from None

    async def wait_hello(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> str:
        """Wait until the guest's init says that it runs; return the kernel's release.

        Raise MarkerNotSeen if the VM ends first, DeadlineExceeded after *timeout_s*.
        """
        try:
            async with asyncio.timeout(timeout_s):
                release = await self._running.agent.wait_hello()
        except TimeoutError as error:
            lines = self.console.last_lines()
            raise DeadlineExceeded("the guest's agent", timeout_s, last_lines=lines) from error
        if release is not None:
            return release
        outcome = await self._outcome_soon()
        if outcome is None:
            raise MarkerNotSeen("cvmlab hello", "the agent's channel ended")
        raise _never_seen("cvmlab hello", outcome, self._running)

    async def send(self, text: str) -> None:
        """Type *text* on the console."""
        await self.console.send(text)

    async def wait_exit(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> Outcome:
        """Wait until the guest has powered off or QEMU is gone, and all is drained."""
        supervisor = self._supervisor
        if supervisor is None:
            raise VmExited("the VM was never started")
        try:
            async with asyncio.timeout(timeout_s):
                await supervisor.ended.wait()
        except TimeoutError as error:
            lines = self.console.last_lines()
            raise DeadlineExceeded("the guest to power off", timeout_s, last_lines=lines) from error
        if supervisor.outcome is None:
            raise supervisor.failure or VmExited("the VM was torn down")
        return supervisor.outcome

    async def stop(self) -> Outcome:
        """End the VM and return how it ended; harmless if it ended before."""
        await self._stop()
        return await self.wait_exit(timeout_s=0)

    async def _stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.decide(End.STOPPED, "stopped on request")
            await self._supervisor.ended.wait()

    async def _outcome_soon(self) -> Outcome | None:
        """Return the outcome if the VM is about to end: its console closed."""
        try:
            return await self.wait_exit(timeout_s=self.setting.stop_timeout_s)
        except (DeadlineExceeded, VmExited):
            return None

    async def upgrade(
        self, qemu: Path | None = None, *, timeout_s: float = UPGRADE_TIMEOUT_S
    ) -> Upgrade:
        """Replace the QEMU process by *qemu*, or by the same program; the guest runs on, commands wait.

        :raise CvmError: nothing has changed, the old QEMU runs the guest.
        :raise VmExited: QEMU died on the way, at a moment that left no way back.
        """
        program = await asyncio.to_thread(locate_qemu, qemu or self.setting.qemu)  # may build it
        setting = replace(self.setting, qemu=program)
        parts, supervisor = self._running, self._supervisor
        require_upgradable(self.spec, parts.channels.overlays)
        if supervisor is None or supervisor.ending:
            raise VmExited("the VM has ended, or is about to")
        if not self._settled.is_set():
            raise ConfigError("the VM is being upgraded already")
        self._settled.clear()
        supervisor.look_away()
        try:
            replaced = await Replacement(
                parts, setting, number=self._upgrades + 1, timeout_s=timeout_s
            ).run()
            self._upgrades += 1
            self.setting, self._parts = setting, replaced.parts
            self._later.push_async_exit(replaced.stack)
        finally:
            supervisor.watch(self._running)
            parts.console.release()
            parts.agent.settle()
            self._settled.set()
        await retire(parts, replaced, self.setting.stop_timeout_s)
        return replaced.upgrade

    async def _wait_settled(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError as error:
            raise DeadlineExceeded("the VM's QEMU to be replaced", timeout_s) from error

    def events(self, limit: int = 64) -> Subscription[Records]:
        """Return an iterator over batches of journal records; use it in a ``with`` block."""
        return self.journal.subscribe(limit)

    async def select(self, **conditions: str | GpaRange | None) -> Selection:
        """Return the journal's records so far; *conditions* are those of Selection.where()."""
        self.journal.drain()
        info = self.last_info or await self.query()
        records = JournalFile(self.run.events).records
        return Selection.all_of(records, info.devices).where(**conditions)  # type: ignore[arg-type]

    def qmp_events(self, limit: int = 1024) -> Subscription[QmpEvent]:
        """Return an iterator over QEMU's events; use it in a ``with`` block."""
        if self._supervisor is None:
            raise VmExited("the VM was never started")
        return self._supervisor.events(limit)


def _most_telling(
    errors: Sequence[BaseException], group: BaseExceptionGroup[BaseException]
) -> BaseException:
    return errors[0] if len(errors) == 1 and isinstance(errors[0], CvmError) else group


def _never_seen(pattern: str, outcome: Outcome, parts: Parts) -> CvmError:
    if outcome.end is End.DIED:
        return VmExited(
            f"{outcome.detail} before {pattern!r} was seen on the console",
            status=outcome.qemu_status,
            log_tail=parts.process.log_tail(),
            hint=f"the run folder is {parts.run.path}",
        )
    return MarkerNotSeen(
        pattern,
        f"the guest {outcome.end} first",
        last_lines=parts.console.last_lines(),
        hint=f"the console's log is {parts.run.console_log}",
    )
