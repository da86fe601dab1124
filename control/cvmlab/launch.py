# SPDX-License-Identifier: GPL-2.0-or-later
"""From a BootSpec to a QEMU that answers: makes every part of a VM, in an order that can be undone.

Whatever is made is pushed on the caller's exit stack before the next step, so that a failure or a
cancellation at any point leaves nothing.
"""

import asyncio
import os
import shutil
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cvmlab.agent import Agent
from cvmlab.bootspec import BootSpec
from cvmlab.console import Console
from cvmlab.errors import BuildError, ConfigError, CvmError, DeadlineExceeded, VmExited
from cvmlab.files import DEFAULT_RING_RECORDS, HasFileno, RestrictedFiles
from cvmlab.guestrequests import guest_request_service
from cvmlab.journal import Journal, Ring
from cvmlab.machine import Channels, command_line, printable
from cvmlab.operations import one_backend
from cvmlab.pages import Pages
from cvmlab.process import QemuProcess, describe_status
from cvmlab.qmp import Qmp, plugin_fault
from cvmlab.quotes import quote_service
from cvmlab.records import describe
from cvmlab.rundir import MemoryFiles, ProcessId, RunDir, VmInfo
from cvmlab.wires import Wires, stream


_FAULTS_SHOWN = 8
# Who answers a guest of this profile that asks to be attested.
_ATTESTATION = {"tdx": quote_service, "sev-snp": guest_request_service}
_DRAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a VM needs besides its BootSpec; ``qemu`` None means the one that cvmlab built,
    ``private_file`` None a fresh one."""

    name: str = "vm"
    qemu: Path | None = None
    run_dir: Path | None = None
    keep: bool = False
    ring_records: int = DEFAULT_RING_RECORDS
    private_file: HasFileno | None = None
    start_timeout_s: float = 30.0
    stop_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Memory:
    """The restricted memory of a VM, as the controller holds it."""

    files: RestrictedFiles
    journal: Journal
    pages: Pages


@dataclass(frozen=True, slots=True)
class Parts:
    """A started QEMU and everything that is connected to it; ``memory`` is None for coco off."""

    run: RunDir
    process: QemuProcess
    connection: Qmp
    console: Console
    agent: Agent
    memory: Memory | None
    qemu_version: str
    spec: BootSpec  # with everything that was found out to start it
    channels: Channels


def locate_qemu(chosen: Path | None) -> Path:
    """Return *chosen*, or CVMLAB_QEMU, or what `cvmlab build` made."""
    named = chosen or os.environ.get("CVMLAB_QEMU")
    if named is None:
        from cvmlab.build import qemu_binary

        return qemu_binary()
    found = shutil.which(named)
    if found is None:
        raise ConfigError(f"{named} is not a program", hint="run `cvmlab build`")
    return Path(found)


async def launch(stack: AsyncExitStack, spec: BootSpec, setting: Setting, run: RunDir) -> Parts:
    """Start QEMU, its guest's CPUs stopped, and connect to it.

    Raise PluginError if it has no plugin, VmExited with the end of its log if it exits,
    DeadlineExceeded if it does not answer.
    """
    files = _make_files(stack, spec, setting)
    spec = _with_roms(spec, setting)
    wires = Wires.make(stack)
    channels = Channels(
        *wires.theirs,
        run.qmp_socket,
        quote_socket=run.quote_socket,
        overlays=await asyncio.to_thread(_make_overlays, stack, spec, run),
    )
    if spec.quotes:
        await stack.enter_async_context(_ATTESTATION[spec.coco](run.quote_socket))
    process = _start(stack, spec, setting, run, files, channels, wires)
    try:
        console_ends = await stack.enter_async_context(stream(wires.console.ours))
        console = Console(*console_ends, log_path=run.console_log)
        agent_reader, _ = await stack.enter_async_context(stream(wires.agent.ours))
        connection = await stack.enter_async_context(
            Qmp.connect(wires.qmp.ours, log_path=run.qmp_log, timeout_s=setting.start_timeout_s)
        )
        if files is None:
            version, memory = await connection.version(), None
        else:
            version = await connection.require_plugin()
            memory = await _memory(stack, run, files, connection)
    except (VmExited, DeadlineExceeded) as error:
        raise await start_failure(process, setting.stop_timeout_s, error) from error
    return Parts(
        run, process, connection, console, Agent(agent_reader), memory, version, spec, channels
    )


@dataclass(frozen=True, slots=True)
class Successor:
    """A QEMU that waits to be given the guest of another; sockets in the run folder."""

    process: QemuProcess
    wires: Wires
    cpr_socket: Path
    main_socket: Path
    qmp_socket: Path


def start_successor(
    stack: AsyncExitStack, source: Parts, setting: Setting, number: int
) -> Successor:
    """Start a QEMU on the memory files of *source*.  It answers only when it is offered the guest."""
    run, memory = source.run, source.memory
    if memory is None:
        raise AssertionError
    wires = Wires.make(stack)
    cpr_socket, main_socket = run.path / "cpr.sock", run.path / "main.sock"
    for path in (cpr_socket, main_socket):
        path.unlink(missing_ok=True)
        stack.callback(path.unlink, missing_ok=True)
    # The one before the one before is gone, and with it what it would remove at its end.
    qmp_socket = run.path / f"qmp{number % 2}"
    qmp_fd, console_fd, agent_fd = wires.theirs
    channels = replace(
        source.channels,
        qmp_fd=qmp_fd,
        console_fd=console_fd,
        agent_fd=agent_fd,
        qmp_socket=qmp_socket,
        cpr_socket=cpr_socket,
    )
    argv = command_line(locate_qemu(setting.qemu), source.spec, channels, memory.files.fds)
    log = run.path / f"qemu-{number}.log"
    log.unlink(missing_ok=True)
    process = QemuProcess(
        argv,
        pass_fds=[*wires.theirs, *memory.files.fds.all],
        log_path=log,
    )
    stack.callback(process.kill)
    wires.let_go()
    return Successor(process, wires, cpr_socket, main_socket, qmp_socket)


async def connect_successor(
    stack: AsyncExitStack, successor: Successor, source: Parts, setting: Setting
) -> Parts:
    """Connect to a QEMU that has been offered the guest; errors are those of launch()."""
    run, process, wires = source.run, successor.process, successor.wires
    try:
        connection = await stack.enter_async_context(
            Qmp.connect(wires.qmp.ours, log_path=run.qmp_log, timeout_s=setting.start_timeout_s)
        )
        version = await connection.require_plugin()
    except (VmExited, DeadlineExceeded) as error:
        raise await start_failure(process, setting.stop_timeout_s, error) from error
    return replace(source, process=process, connection=connection, qemu_version=version)


async def adopt_ports(stack: AsyncExitStack, successor: Successor, source: Parts) -> None:
    """Go on with console and agent of the new QEMU where those of the old one end."""
    reader, writer = await stack.enter_async_context(stream(successor.wires.console.ours))
    source.console.go_on_with(reader, writer)
    reader, _ = await stack.enter_async_context(stream(successor.wires.agent.ours))
    source.agent.go_on_with(reader)


def _make_overlays(stack: AsyncExitStack, spec: BootSpec, run: RunDir) -> tuple[Path, ...]:
    """Make files that take what the guest writes to its disks, and that a second QEMU can open.

    None without restricted memory, or without qemu-img: then QEMU makes files that only it can find.
    """
    if not spec.restricted or not spec.disks:
        return ()
    from cvmlab.build import qemu_img
    from cvmlab.images import overlay

    try:
        program = qemu_img(build=False)
    except BuildError:
        return ()
    made = []
    for number, disk in enumerate(spec.disks):
        name = f"disk{number}.qcow2"
        stack.callback((run.path / name).unlink, missing_ok=True)
        made.append(overlay(disk.path, run.path, program, disk_format=disk.format, name=name))
    return tuple(made)


def _with_roms(spec: BootSpec, setting: Setting) -> BootSpec:
    if spec.rom_dirs or setting.qemu is not None:
        return spec
    from cvmlab.firmware import rom_dirs

    return replace(spec, rom_dirs=tuple(rom_dirs()))


def _make_files(stack: AsyncExitStack, spec: BootSpec, setting: Setting) -> RestrictedFiles | None:
    if not spec.restricted:
        return None
    files = stack.enter_context(
        RestrictedFiles.create(
            spec.memory_bytes,
            layout=spec.memory_layout,
            ring_records=setting.ring_records,
            private=setting.private_file,
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
    argv = command_line(locate_qemu(setting.qemu), spec, channels, fds)
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
            else MemoryFiles(fds.private, fds.shared, fds.table, fds.ring),
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
    """Read what is in the ring, in the thread that owns the journal, whoever asks."""

    async def drain() -> None:
        journal.drain()

    if threading.get_ident() == owner:
        journal.drain()
    elif loop.is_running():  # else the VM has ended, and all is read
        asyncio.run_coroutine_threadsafe(drain(), loop).result(_DRAIN_S)


async def start_failure(
    process: QemuProcess,
    timeout_s: float,
    error: VmExited | DeadlineExceeded | None = None,
) -> CvmError:
    """Return the error that explains best why QEMU did not start; *error* is how it was noticed."""
    # QEMU closes its sockets a little before it is gone.
    status = await process.wait_for(0 if isinstance(error, DeadlineExceeded) else timeout_s)
    tail = process.log_tail()
    hint = f"its log is {process.log_path}"
    if status is None and error is not None:
        error.hint = hint
        return error
    last = f": {tail[-1]}" if tail else ""
    ended = "" if status is None else f", it ended with {describe_status(status)}"
    return plugin_fault(tail) or VmExited(
        f"QEMU did not start{ended}{last}",
        status=status,
        log_tail=tail,
        hint=hint,
    )
