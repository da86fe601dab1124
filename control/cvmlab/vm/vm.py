# SPDX-License-Identifier: GPL-2.0-or-later
# Longer than 400 lines: what a VM can do stands here, a few lines each; how is in other modules.
"""One VM: its files, its process, its connections and its tasks, owned by one context::

    async with Vm(kernel="vmlinuz", memory="1G") as vm:
        await vm.wait_for("login:")
        await vm.convert("16M+2M", "shared")
        print(vm.pages.counts())

After the context, there is no process, no descriptor and, unless something failed, no file.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from cvmlab.base.barrier import Barrier
from cvmlab.base.channel import Subscription
from cvmlab.base.errors import (
    ConfigError,
    CvmError,
    DeadlineExceeded,
    MarkerNotSeen,
    VmExited,
)
from cvmlab.listening.command_output import CommandOutput
from cvmlab.listening.console import Console
from cvmlab.machine.memory_files import RestrictedFiles
from cvmlab.machine.options import boot_spec, take_setting
from cvmlab.machine.spec import BootSpec, OnPanic
from cvmlab.memory.journal import Journal, JournalFile, Records
from cvmlab.memory.pages import Pages
from cvmlab.memory.ranges import GpaRange
from cvmlab.qemu.program import locate_qemu
from cvmlab.replays import recorder as replays
from cvmlab.replays.replay_folder import ReplayFolder
from cvmlab.results.selection import Selection
from cvmlab.runs.run_dir import STATE_FOLDER, RunDir
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.snapshots.store import place_of, require_free
from cvmlab.unwind.modules import LoadedModule
from cvmlab.vm import warm
from cvmlab.vm.attached import AttachedVm, attach
from cvmlab.vm.handover import Upgrade
from cvmlab.vm.launch import Memory, Parts, Setting, launch, program_of
from cvmlab.vm.operations import BackendInfo
from cvmlab.vm.outcome import End, VmOutcome
from cvmlab.vm.owner_socket import answering
from cvmlab.vm.qmp import DEFAULT_TIMEOUT_S, QmpEvent
from cvmlab.vm.restoring import Restored, fork_settings, require_same_qemu
from cvmlab.vm.saving import SAVE_TIMEOUT_S, Saved, freeze_for_forks, save
from cvmlab.vm.supervisor import Supervisor, ended_before, only_error
from cvmlab.vm.time_travel import TimeTravel
from cvmlab.vm.upgrade import (
    UPGRADE_TIMEOUT_S,
    Replaced,
    Replacement,
    require_upgradable,
    retire,
)


WAIT_TIMEOUT_S = 120.0


def _setting_alone(options: dict[str, object]) -> Setting:
    """Return the Setting of a VM whose machine is known; raise ConfigError for any other option."""
    setting = Setting(**take_setting(options))
    if options:
        raise ConfigError(
            f"this VM has no option {min(options)!r}: its machine is as it was kept",
            hint="give name, keep, run_dir, or other options of a run",
        )
    return setting


@final
class Vm(TimeTravel):
    """A VM that runs for as long as its ``async with`` block.

    It ends once, at the first of the guest's power-off, stop(), and the end of QEMU; then all output
    is read, QEMU is told to quit, and wait_exit() returns.
    """

    def __init__(
        self,
        spec: BootSpec | None = None,
        *,
        setting: Setting | None = None,
        paused: bool = False,
        **options: object,
    ) -> None:
        """Describe the VM by *spec*, or by the *options* of boot_spec(); start nothing.

        *options* may include those of Setting, such as ``name``, ``keep`` and ``run_dir``.
        *paused* leaves the CPUs stopped until cont().
        """
        super().__init__(self._command)
        mine = take_setting(options)
        if (spec is not None and options) or (setting is not None and mine):
            raise ConfigError("a VM takes either spec and setting, or options, not both")
        self.spec = spec or boot_spec(**options)
        self.setting = setting or Setting(**mine)
        self._paused = paused
        self.restored: Restored | None = None
        self.problems: list[str] = []  # what went wrong beside the guest
        # Awaited when the guest has ended and QEMU still has it; it raises nothing.
        self.at_end: Callable[[Vm], Awaitable[None]] | None = None
        self.origin: SnapshotFolder | None = None  # where the guest was saved: see restore()
        self.recording: ReplayFolder | None = None  # what is executed again: see replay()
        self._keep = self.setting.keep
        self._stack = AsyncExitStack()
        self._run: RunDir | None = None
        self._parts: Parts | None = None
        self._supervisor: Supervisor | None = None
        self._late_stack = AsyncExitStack()
        self._upgrades = 0
        # One upgrade, save or fork at a time; commands of this process wait meanwhile.
        self._barrier = Barrier("the VM to be upgraded, saved or forked")
        self._state_lock = asyncio.Lock()

    @staticmethod
    def attach(name: str) -> AbstractAsyncContextManager[AttachedVm]:
        """Operate the running VM *name* of another process: ``async with Vm.attach("vm") as vm``."""
        return attach(name)

    @classmethod
    def restore(
        cls, saved: SnapshotFolder | Path | str, *, paused: bool | None = None, **setting: object
    ) -> Self:
        """Return a VM that goes on where *saved* was: ``async with Vm.restore("booted") as vm``.

        *saved* is a name or a path (with a / in it) of a snapshot.  *setting* are options of Setting.
        The guest runs if it ran when it was saved, unless *paused* says otherwise.

        :raise ConfigError: there is no such snapshot, or it is of another QEMU.
        """
        origin = saved
        if not isinstance(origin, SnapshotFolder):
            origin = SnapshotFolder.open(place_of(str(saved)))
            origin.spec = origin.spec.without_ports
        return cls.of_snapshot(origin, _setting_alone(setting), paused=paused)

    @classmethod
    def of_snapshot(
        cls, origin: SnapshotFolder, setting: Setting, *, paused: bool | None = None
    ) -> Self:
        """See restore()."""
        replays.require_no_recording(setting.record)
        require_same_qemu(origin, program_of(setting, origin.spec))
        stopped = not origin.manifest.running if paused is None else paused
        made = cls(origin.spec, setting=setting, paused=stopped)
        made.origin = origin
        return made

    @classmethod
    def replay(
        cls, recording: ReplayFolder | Path | str, *, paused: bool = False, **setting: object
    ) -> Self:
        """Return a VM that executes again what was recorded: ``async with Vm.replay("folder") as vm``.

        *recording* is the folder that ``Vm(record=folder)`` filled; *setting* are options of Setting.

        :raise ConfigError: there is no such recording, it is damaged, or of another QEMU.
        """
        if not isinstance(recording, ReplayFolder):
            recording = ReplayFolder.open(Path(recording))
        return cls.of_recording(recording, _setting_alone(setting), paused=paused)

    @classmethod
    def of_recording(
        cls, recording: ReplayFolder, setting: Setting, *, paused: bool = False
    ) -> Self:
        """See replay()."""
        replays.require_no_recording(setting.record)
        replays.require_same_qemu(recording, program_of(setting, recording.spec))
        made = cls(recording.spec, setting=setting, paused=paused)
        made.recording = recording
        return made

    async def __aenter__(self) -> Self:
        """Boot; on failure, raise and leave nothing behind."""
        if self.started:
            raise ConfigError("this VM was entered before", hint="make a new Vm for each boot")
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
        """End the VM if it still runs.  Leave nothing behind, even if cancelled meanwhile."""
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
        self.folder = self._run.path
        self._stack.push(self._close_run)
        execution = await self._execution()
        origin, self.origin = self.origin, None
        key = None
        if origin is None and execution is None and self.setting.keeps_warm:
            program = program_of(self.setting, self.spec)
            key = await asyncio.to_thread(warm.key_for, self.spec, program)
        if key is not None and not self.setting.cold:
            origin = await asyncio.to_thread(warm.find, key)
        self._parts = parts = await self._launch(origin, key, execution)
        if parts.memory is not None:
            self.ram = tuple(slot.range for slot in parts.memory.pages.slots)
        supervisor = Supervisor(
            parts,
            stop_timeout_s=self.setting.stop_timeout_s,
            on_failure=self.keep_state if self.setting.keep_state else None,
            at_end=None if self.at_end is None else partial(self.at_end, self),
        )
        self._supervisor = supervisor
        await self._stack.enter_async_context(self._late_stack)
        await self._late_stack.enter_async_context(answering(self._run.path, self))
        if key is not None and self.restored is None:
            kept = warm.keeping(self, key, self.problems)
            await self._late_stack.enter_async_context(kept)
        # Entered last, so that its tasks end before the parts that they use are closed.
        supervisor.start(await self._stack.enter_async_context(asyncio.TaskGroup()))
        if not self._paused:
            await self.cont()

    async def _execution(self) -> replays.Execution | None:
        if self.setting.record is None:
            again = self.recording
            return None if again is None else replays.Execution(again.log, replayed=True)
        recorder = replays.Recorder(self, self.setting.record, program_of(self.setting, self.spec))
        return await asyncio.to_thread(self._stack.enter_context, recorder.recording())

    async def _launch(
        self, origin: SnapshotFolder | None, key: str | None, execution: replays.Execution | None
    ) -> Parts:
        """Start QEMU; boot if the guest that was kept for *key* cannot be used."""
        start = partial(launch, self._stack, self.spec, self.setting, self.run, execution=execution)
        if origin is None:
            return await start(keeps=key is not None)
        try:
            async with AsyncExitStack() as attempt:
                parts = await launch(attempt, self.spec, self.setting, self.run, origin)
                self.restored = Restored.of(origin)
                self._stack.push_async_exit(attempt.pop_all())
                return parts
        except ConfigError as error:
            if key is None:
                raise
            warm.forget(key)
            self.problems.append(f"the guest kept for warm boots was not used: {error.message}")
            self.run.forget_guest()
        return await start(keeps=True)

    async def save_warm(self, place: Path, key: str) -> Saved:
        """Save the VM for warm boots (warm.py)."""
        return await save(self._running, place, self._alone, key=key)

    def listen(self) -> None:
        """Listen to the guest's agent again, which was told to wait at hello."""
        if self._parts is not None:
            self._parts.voice.resume_reading()

    async def _unwind(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all parts.  Raise a task's error, if any, from the error of the body."""
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            ours = [found for found in group.exceptions if found is not error]
            if ours:
                raise only_error(ours, group) from error

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

    @property
    def started(self) -> bool:
        """Whether the VM was started, so that there is a run folder."""
        return self._run is not None

    @property
    def run(self) -> RunDir:
        """The run folder; after the end, it may have been removed."""
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
        """Live states and counts, valid until the end of the context."""
        return self._memory.pages

    @property
    def journal(self) -> Journal:
        return self._memory.journal

    @property
    def kernel_release(self) -> str | None:
        """The kernel's release that the guest's agent reported, None before."""
        return self._running.agent.release

    @property
    def kernel_trouble(self) -> tuple[str, ...]:
        """The first lines of the kernel's log that fail a boot, see BootSpec.fail_on."""
        return tuple(self.console.kernel_log.trouble)

    @property
    def command_output(self) -> CommandOutput:
        """What the command that the guest's agent runs has printed so far."""
        return self._running.output

    @property
    def guest_modules(self) -> tuple[LoadedModule, ...]:
        """The kernel modules that the guest's agent reported, before its command and after it."""
        return self._running.agent.modules

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
    def outcome(self) -> VmOutcome | None:
        """How the VM ended, None while it runs."""
        return None if self._supervisor is None else self._supervisor.outcome

    @property
    def last_info(self) -> BackendInfo | None:
        """The answer of query() at the guest's end, just before QEMU was told to quit."""
        return None if self._supervisor is None else self._supervisor.last_info

    async def _command(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        await self._barrier.passed(timeout_s)
        parts = self._running
        try:
            return await parts.connection.execute(command, arguments, timeout_s=timeout_s)
        except VmExited as error:
            error.status = await parts.process.wait_for(self.setting.stop_timeout_s)
            error.log_tail = tuple(parts.process.log_tail())
            error.hint = error.hint or f"the run folder is {parts.run.path}"
            raise

    async def wait_for(
        self,
        pattern: str,
        *,
        fail: Sequence[str] = (),
        timeout_s: float = WAIT_TIMEOUT_S,
        on_panic: OnPanic | None = None,
    ) -> re.Match[str]:
        """Wait for *pattern* on the console; errors are those of Console.wait_for().

        *on_panic* is that of the VM unless given.  Raise VmExited if QEMU died first.
        """
        how = on_panic or self.spec.on_panic
        try:
            wait = self.console.wait_for
            return await wait(pattern, fail=fail, timeout_s=timeout_s, on_panic=how)
        except MarkerNotSeen:
            outcome = await self._outcome_soon()
            if outcome is None:
                raise
            raise ended_before(pattern, outcome, self._running) from None

    async def wait_hello(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> str:
        """Wait until the guest's init reports that it runs; return the kernel's release.

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
        raise ended_before("cvmlab hello", outcome, self._running)

    async def send(self, text: str) -> None:
        """Type *text* on the console."""
        await self.console.send(text)

    async def wait_exit(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> VmOutcome:
        """Wait until the guest has powered off or QEMU has ended, and all output is read."""
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

    async def stop(self) -> VmOutcome:
        """End the VM, unless it has ended, and return its outcome."""
        await self._stop()
        return await self.wait_exit(timeout_s=0)

    async def _stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.decide(End.STOPPED, "stopped on request")
            await self._supervisor.ended.wait()

    async def _outcome_soon(self) -> VmOutcome | None:
        """Return the outcome if the VM ends soon, because its console has closed."""
        try:
            return await self.wait_exit(timeout_s=self.setting.stop_timeout_s)
        except (DeadlineExceeded, VmExited):
            return None

    async def upgrade(
        self, qemu: Path | None = None, *, timeout_s: float = UPGRADE_TIMEOUT_S
    ) -> Upgrade:
        """Replace the QEMU process under the guest by *qemu*, or by the same program; commands wait.

        :raise CvmError: nothing has changed; the old QEMU runs the guest.
        :raise VmExited: QEMU died at a moment that left no way back.
        """
        known = qemu or self.setting.qemu, self.setting.qemu_version, self.spec.architecture
        program = await asyncio.to_thread(locate_qemu, *known)  # which may build it
        setting = replace(self.setting, qemu=program)
        parts, supervisor = self._running, self._supervisor
        channels = parts.channels
        require_upgradable(self.spec, channels.overlays, is_logged=bool(channels.execution_log))
        if supervisor is None or supervisor.ending:
            raise VmExited("the VM has ended or is ending")
        if self._barrier.is_held:
            raise ConfigError("the VM is being upgraded, saved or forked already")
        async with self._barrier.held():
            replaced = await self._replace_qemu(setting, supervisor, parts, timeout_s)
        problem = await retire(parts, replaced, self.setting.stop_timeout_s)
        return replace(replaced.upgrade, problem=problem)

    async def _replace_qemu(
        self, setting: Setting, supervisor: Supervisor, parts: Parts, timeout_s: float
    ) -> Replaced:
        supervisor.stop_watching()
        try:
            replaced = await Replacement(
                parts, setting, number=self._upgrades + 1, timeout_s=timeout_s
            ).run()
            self._upgrades += 1
            self.setting, self._parts = setting, replaced.parts
            self._late_stack.push_async_exit(replaced.stack)
            return replaced
        finally:
            supervisor.watch(self._running)
            parts.console.release()
            parts.agent.allow_end()

    async def save(
        self, place: str | Path, *, compress: bool = False, timeout_s: float = SAVE_TIMEOUT_S
    ) -> Saved:
        """Save the VM as snapshot *place*, a name or a path with a / in it; the guest runs on.

        *compress* makes the snapshot smaller (zstd), and slower to restore.

        :raise ConfigError: the name is taken, the disk is full, or there is what cannot be saved.
        :raise CommandRefused: a device cannot be saved.
        :raise DeadlineExceeded: a request of the guest was under way all the time.
        """
        folder = place_of(str(place))
        require_free(folder)
        return await save(
            self._running, folder, self._alone, compress=compress, timeout_s=timeout_s
        )

    async def keep_state(self) -> None:
        """Save the VM in its run folder as it is, for `cvmlab restore`; do nothing if that is done.

        What keeps it from being saved is added to ``problems``.
        """
        place = self.run.path / STATE_FOLDER
        if self._parts is None or not self.spec.restricted:
            return
        async with self._state_lock:
            if place.exists():
                return
            try:
                await save(self._parts, place, self._barrier.held, has_failed=True)
            except CvmError as error:
                self.problems.append(f"the guest's state was not kept: {error.message}")

    async def fork(self, count: int = 1, **setting: object) -> list["Vm"]:
        """Return *count* VMs that go on where this one is, each to be entered as a Vm is.

        They have files, journals, sockets and run folders of their own, and their guests the same
        secrets, addresses and network cards.  *setting* are options of Setting; names get numbers.
        Errors are those of save().
        """
        async with self._alone():
            origin = await freeze_for_forks(self._running)
            same = replace(self.setting, qemu=Path(self._running.process.argv[0]))
        settings = fork_settings(same, count, take_setting(setting))
        return [Vm.of_snapshot(origin, one) for one in settings]

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Be the only one who moves the VM, which is to go on."""
        async with self._barrier.held():
            supervisor = self._supervisor
            if supervisor is None or supervisor.ending:
                raise VmExited("the VM has ended or is ending")
            yield

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
