# SPDX-License-Identifier: GPL-2.0-or-later
"""Start the VM of a BootSpec: make its parts one by one, until QEMU answers.

Each part is pushed on the caller's exit stack before the next step, so that a failure or a
cancellation at any point leaves nothing behind.
"""

import asyncio
import os
import re
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from cvmlab.base.errors import (
    BuildError,
    ConfigError,
    DeadlineExceeded,
    InvariantError,
    VmExited,
)
from cvmlab.listening.agent import Agent
from cvmlab.listening.command_output import CommandOutput
from cvmlab.listening.console import Console
from cvmlab.listening.kernel_log import NO_TROUBLE, KernelLog
from cvmlab.machine.command_line import Channels, command_line, printable
from cvmlab.machine.memory_files import DEFAULT_RING_RECORDS, HasFileno, RestrictedFiles
from cvmlab.machine.socket_pairs import Wires, stream
from cvmlab.machine.spec import BootSpec, OnPanic, Stacks
from cvmlab.memory.accounting import Books, differences
from cvmlab.memory.journal import Journal, JournalFile, Ring
from cvmlab.memory.pages import Pages
from cvmlab.memory.records import describe
from cvmlab.memory.states import Layout, profiles
from cvmlab.qemu.program import locate_qemu
from cvmlab.replays.recorder import Execution
from cvmlab.runs.run_dir import MemoryFiles, ProcessId, RunDir, VmInfo
from cvmlab.snapshots.snapshot_folder import SnapshotFolder
from cvmlab.vm.operations import BackendInfo, one_backend
from cvmlab.vm.process import QemuProcess
from cvmlab.vm.qmp import Qmp
from cvmlab.vm.restoring import Filling, give_the_guest, ring_records
from cvmlab.vm.restoring import overlays as restored_overlays
from cvmlab.vm.start_failure import start_failure


_FAULTS_SHOWN = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}")
_DRAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a VM needs besides its BootSpec; ``qemu`` None means the one that cvmlab built, of
    ``qemu_version`` or of the default version; ``private_file`` None means a fresh one.

    ``warm`` starts from the guest that the same boot has kept, if it has, and keeps it otherwise;
    ``cold`` boots, and keeps it anew.  ``keep_state`` saves a guest that fails in the run folder.
    ``record`` is a folder to record the boot in, for replays.
    """

    name: str = "vm"
    qemu: Path | None = None
    qemu_version: str | None = None
    run_dir: Path | None = None
    keep: bool = False
    warm: bool = False
    cold: bool = False
    keep_state: bool = False
    record: Path | None = None
    ring_records: int = DEFAULT_RING_RECORDS
    private_file: HasFileno | None = None
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 5.0

    @property
    def keeps_warm(self) -> bool:
        """Whether the guest is kept for the next boot, unless it comes from one."""
        return self.warm or self.cold

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is not a name for a VM", hint="use letters, digits, - and _"
            )
        if self.record is not None and (self.keeps_warm or self.keep_state):
            raise ConfigError(
                "--record excludes --warm, --cold and --keep-state",
                hint="leave one out: a replay has the guest at each moment",
            )


@dataclass(frozen=True, slots=True)
class Memory:
    """The restricted memory of a VM, as the controller holds it."""

    files: RestrictedFiles
    journal: Journal
    pages: Pages

    def differences(self, info: BackendInfo) -> list[str]:
        """Return how the books contradict each other after the end; none if records were lost."""
        if self.journal.unpublished or self.journal.ring.dropped:
            return []
        return differences(
            Books(
                records=JournalFile(self.journal.path).records,
                states=self.files.page_table().states(),
                pages=self.pages.counts(),
                counters=self.pages.counters(),
                storage=self.files.storage_bytes(),
                slots=info.memory_slots,
                rules=profiles()[info.profile],
                layout=Layout(info.layout),
            )
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """A started QEMU and everything that is connected to it; ``memory`` is None for coco off."""

    run: RunDir
    process: QemuProcess
    connection: Qmp
    console: Console
    agent: Agent
    output: CommandOutput
    voice: asyncio.ReadTransport  # of the agent; paused at hello where the guest is kept then
    memory: Memory | None
    qemu_version: str
    spec: BootSpec  # with everything that was found out to start it
    channels: Channels
    wires: Wires


def program_of(setting: Setting, spec: BootSpec) -> Path:
    return locate_qemu(setting.qemu, setting.qemu_version, spec.architecture)


async def launch(
    stack: AsyncExitStack,
    spec: BootSpec,
    setting: Setting,
    run: RunDir,
    origin: SnapshotFolder | None = None,
    *,
    keeps: bool = False,
    execution: Execution | None = None,
) -> Parts:
    """Start QEMU, its guest's CPUs stopped, and connect to it.  With *origin*, the guest is that one.

    *keeps*: the guest's agent is to wait at its first hello, for the guest to be saved.
    *execution*: it is recorded, or replayed.

    Raise PluginError if it has no plugin, VmExited with the end of its log if it exits,
    DeadlineExceeded if it does not answer, ConfigError if *origin* is damaged or does not fit.
    """
    files = _make_files(stack, spec, setting, origin)
    filling = await _begin_to_fill(stack, origin, files, run)
    spec = _with_roms(spec if execution is None else execution.spec(spec), setting)
    wires = Wires.make(stack)
    if keeps:
        wires.tighten_agent()
    channels = Channels(
        *wires.theirs,
        run.qmp_socket,
        quote_socket=run.quote_socket,
        certificates=run.certificates,
        overlays=await _overlays(stack, spec, setting, run, origin),
        restores=origin is not None,
        execution_log=None if execution is None else execution.log,
        replays=execution is not None and execution.replayed,
    )
    if execution is not None:
        execution.require_overlays(spec, channels.overlays)
    await _attest(stack, spec, run)
    process = _start(stack, spec, setting, run, files, channels, wires)
    try:
        connection = await stack.enter_async_context(
            Qmp.connect(wires.qmp.ours, log_path=run.qmp_log, timeout_s=setting.start_timeout_s)
        )
        if files is None:
            version, memory = await connection.version(), None
        else:
            version = await connection.require_plugin()
            memory = await _memory(stack, run, files, connection)
    except (VmExited, DeadlineExceeded) as error:
        if filling is not None:
            await filling.done()  # a damaged snapshot explains it better
        raise await start_failure(process, setting.stop_timeout_s, error) from error
    console, agent, output, voice = await _listen(stack, spec, run, wires, pauses=keeps)
    parts = Parts(
        run, process, connection, console, agent, output, voice, memory, version, spec, channels,
        wires,
    )  # fmt: skip
    return parts if filling is None else await give_the_guest(parts, filling)


async def _attest(stack: AsyncExitStack, spec: BootSpec, run: RunDir) -> None:
    """Serve the guest's requests for attestation, if it is to have answers."""
    row = spec.profile.attestation
    if row is None or not spec.has_quotes:
        return
    from cvmlab.attestation.services import (  # slow, and few ask for it
        attestation_service,
        host_certificates,
    )

    if spec.attest is not None:
        made = host_certificates(row.service, spec.attest, spec.attest_options)
        if made is not None:
            run.write(run.certificates.name, made)
        if spec.attest_serve is not None:
            from cvmlab.collateral.web_services import services_of

            await stack.enter_async_context(services_of(spec.attest, spec.attest_serve))
    await stack.enter_async_context(
        attestation_service(row.service, run.quote_socket, *spec.answers)
    )


async def _begin_to_fill(
    stack: AsyncExitStack,
    origin: SnapshotFolder | None,
    files: RestrictedFiles | None,
    run: RunDir,
) -> Filling | None:
    if origin is None:
        return None
    if files is None:
        raise InvariantError("a snapshot is of a VM with restricted memory")
    return await Filling.begin(stack, origin, files, run)


async def _overlays(
    stack: AsyncExitStack,
    spec: BootSpec,
    setting: Setting,
    run: RunDir,
    origin: SnapshotFolder | None,
) -> tuple[Path, ...]:
    if origin is not None:
        return await restored_overlays(stack, origin, run)
    return await asyncio.to_thread(_make_overlays, stack, spec, setting, run)


async def _listen(
    stack: AsyncExitStack, spec: BootSpec, run: RunDir, wires: Wires, *, pauses: bool
) -> tuple[Console, Agent, CommandOutput, asyncio.ReadTransport]:
    """Return those who listen to the guest; what it has said meanwhile waits in the sockets.

    *pauses*: at its first hello the agent is not listened to any more, so that it waits.
    """
    console_ends = await stack.enter_async_context(stream(wires.console.ours))
    kernel_log = _kernel_log(spec)
    console = Console(*console_ends, log_path=run.console_log, kernel_log=kernel_log)
    agent_reader, agent_writer = await stack.enter_async_context(stream(wires.agent.ours))
    output, voice = (
        CommandOutput(run.exec_log, console),
        cast("asyncio.Transport", agent_writer.transport),
    )

    def hello() -> None:
        kernel_log.hello()
        if pauses and agent.release is None:
            voice.pause_reading()

    agent = Agent(agent_reader, output.take, on_hello=hello, panics=lambda: kernel_log.panics)
    return console, agent, output, voice


def _kernel_log(spec: BootSpec) -> KernelLog:
    """Where a panic is wanted, an oops may be what leads to it: only what was asked for counts."""
    default = () if spec.on_panic is OnPanic.END else (NO_TROUBLE,)
    return KernelLog((*default, *spec.fail_on))


def _make_overlays(
    stack: AsyncExitStack, spec: BootSpec, setting: Setting, run: RunDir
) -> tuple[Path, ...]:
    """Make files for the guest's disk writes that a second QEMU can open, too.

    Make none without restricted memory or without qemu-img: QEMU then makes files that only it can
    open.
    """
    if not spec.restricted or not spec.disks:
        return ()
    from cvmlab.images.boot_files import overlay
    from cvmlab.qemu.build import qemu_img

    try:
        program = qemu_img(setting.qemu_version, spec.architecture, build=False)
    except BuildError:
        return ()
    made = []
    for number, disk in enumerate(spec.disks):
        name = f"disk{number}.qcow2"
        if (run.path / name).resolve() == disk.path.resolve():
            raise ConfigError(
                f"the disk {disk.path} is where the run folder keeps the guest's writes to it",
                hint="move the disk, or choose another folder with --run-dir",
            )
        stack.callback((run.path / name).unlink, missing_ok=True)
        made.append(overlay(disk.path, run.path, program, disk_format=disk.format, name=name))
    return tuple(made)


def _with_roms(spec: BootSpec, setting: Setting) -> BootSpec:
    if spec.rom_dirs or setting.qemu is not None:
        return spec
    from cvmlab.qemu.firmware import rom_dirs

    return replace(spec, rom_dirs=tuple(rom_dirs(spec.architecture)))


def _make_files(
    stack: AsyncExitStack, spec: BootSpec, setting: Setting, origin: SnapshotFolder | None
) -> RestrictedFiles | None:
    if not spec.restricted:
        return None
    files = stack.enter_context(
        RestrictedFiles.create(
            spec.memory_bytes,
            layout=spec.memory_layout,
            ring_records=setting.ring_records if origin is None else ring_records(origin),
            private=setting.private_file,
            stacks=spec.stacks is Stacks.ON,
        )
    )
    files.bind()
    return files


def _start(
    stack: AsyncExitStack,
    spec: BootSpec,
    setting: Setting,
    run: RunDir,
    files: RestrictedFiles | None,
    channels: Channels,
    wires: Wires,
) -> QemuProcess:
    fds = None if files is None else files.fds
    argv = command_line(program_of(setting, spec), spec, channels, fds)
    run.write("cmdline", printable(argv) + "\n")
    inherited = [*wires.theirs, *(() if fds is None else fds.all)]
    process = QemuProcess(argv, pass_fds=inherited, log_path=run.qemu_log)
    stack.callback(process.kill)
    wires.let_go()
    run.publish(
        VmInfo(
            name=setting.name,
            coco=spec.coco,
            memory_bytes=spec.memory_bytes,
            created_s=time.time(),
            controller=ProcessId.of(os.getpid()),
            qemu=process.identity,
            files=None
            if fds is None
            else MemoryFiles(fds.private, fds.shared, fds.table, fds.ring, fds.stacks),
        )
    )
    return process


async def _memory(
    stack: AsyncExitStack, run: RunDir, files: RestrictedFiles, connection: Qmp
) -> Memory:
    ring = Ring(files.fds.ring)
    stack.callback(ring.close)
    ring.require_header()
    journal = Journal(ring, run.events)
    stack.callback(journal.close)
    info = one_backend(await connection.execute("query-restricted-memory"))
    loop, owner = asyncio.get_running_loop(), threading.get_ident()

    def first_faults() -> list[str]:
        _drain_in(loop, owner, journal)
        return [describe(record, info.devices) for record in journal.first_faults[:_FAULTS_SHOWN]]

    pages = Pages(ring, files.page_table(), info.memory_slots, first_faults=first_faults)
    return Memory(files, journal, pages)


def _drain_in(loop: asyncio.AbstractEventLoop, owner: int, journal: Journal) -> None:
    """Drain the ring in the thread that owns the journal; callable from any thread."""

    async def drain() -> None:
        journal.drain()

    if threading.get_ident() == owner:
        journal.drain()
    elif loop.is_running():  # otherwise the VM has ended and the ring is empty
        asyncio.run_coroutine_threadsafe(drain(), loop).result(_DRAIN_S)
