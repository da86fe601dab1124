# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that takes over the guest of another: started on its files, connected, listened to."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cvmlab.base.errors import DeadlineExceeded, InvariantError, VmExited
from cvmlab.machine.command_line import command_line
from cvmlab.machine.socket_pairs import Wires, stream
from cvmlab.vm.launch import Parts, Setting, program_of
from cvmlab.vm.process import QemuProcess
from cvmlab.vm.qmp import Qmp
from cvmlab.vm.start_failure import start_failure


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
    """Start a QEMU on the memory files of *source*.  It answers once it is offered the guest."""
    run, memory = source.run, source.memory
    if memory is None:
        raise InvariantError("a VM without memory files cannot be handed to another QEMU")
    wires = Wires.make(stack)
    cpr_socket, main_socket = run.path / "cpr.sock", run.path / "main.sock"
    for path in (cpr_socket, main_socket):
        path.unlink(missing_ok=True)
        stack.callback(path.unlink, missing_ok=True)
    # Two names alternate: a QEMU removes its socket when it exits, which must not be the next one's.
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
    argv = command_line(program_of(setting, source.spec), source.spec, channels, memory.files.fds)
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
    return replace(
        source, process=process, connection=connection, qemu_version=version, wires=wires
    )


async def adopt_ports(stack: AsyncExitStack, successor: Successor, source: Parts) -> None:
    """Continue console and agent with those of the new QEMU after the old ones have ended."""
    reader, writer = await stack.enter_async_context(stream(successor.wires.console.ours))
    source.console.continue_with(reader, writer)
    reader, _ = await stack.enter_async_context(stream(successor.wires.agent.ours))
    source.agent.continue_with(reader)
