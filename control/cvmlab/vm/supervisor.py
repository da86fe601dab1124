# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a VM: decided once, then carried out in the order that QEMU's shutdown requires.

QEMU runs with ``-action shutdown=pause``: at power-off it stops the CPUs and waits.  From then on no
new command is sent; commands in flight are answered, the last state is read, and ``quit`` is the
last command.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, final

from cvmlab.base.channel import Subscription, Topic
from cvmlab.base.errors import CvmError, InvariantError, MarkerNotSeen, VmExited
from cvmlab.vm.launch import Parts
from cvmlab.vm.operations import BackendInfo, Stop, StopReason, one_backend
from cvmlab.vm.outcome import End, VmOutcome, shutdown_end
from cvmlab.vm.process import describe_status
from cvmlab.vm.qmp import Qmp, QmpEvent


_SILENCE_TIMEOUT_S = 2.0
# During an upgrade the old QEMU stops the guest and the new one resumes it: no news for readers.
_UPGRADE_EVENTS = ("STOP", "RESUME")
# For these reasons QEMU does not pause but exits at once: a command sent now could reach a monitor
# that is half torn down.
_QUITTING = ("host-qmp-quit", "host-signal", "host-ui")


@final
class Supervisor:
    """Watches the parts of a VM and ends it.  Call start() once, with the VM's task group."""

    def __init__(
        self,
        parts: Parts,
        *,
        stop_timeout_s: float,
        on_failure: Callable[[], Awaitable[None]] | None = None,
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """*on_failure* is called when the guest has failed, *at_end* whenever it has ended, and QEMU
        still has it."""
        self.outcome: VmOutcome | None = None
        self.last_info: BackendInfo | None = None
        self.failure: Exception | None = None  # what ended the tasks, if not the VM's own end
        self.ended = asyncio.Event()
        self._parts = parts
        self._stop_timeout_s = stop_timeout_s
        self._on_failure = on_failure
        self._at_end = at_end
        self._decision: tuple[End, str] | None = None
        self._decided = asyncio.Event()
        self._quitting = False
        self._replacing = False
        self._events: Topic[QmpEvent] = Topic()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start the tasks that read from the VM and watch it; a defect in one ends the group."""
        self._group = group
        parts = self._parts
        jobs = {
            "console": parts.console.follow(),
            "agent": parts.agent.follow(),
            "events": self._watch_events(parts.connection),
            "process": self._watch_process(),
            "end": self._carry_out(),
        }
        if parts.memory is not None:
            jobs["journal"] = parts.memory.journal.follow()
        self._start(jobs)

    def _start(self, jobs: Mapping[str, Coroutine[Any, Any, None]]) -> None:
        if self._group is None:
            raise InvariantError("the supervisor was used before start()")
        for name, job in jobs.items():
            self._tasks[name] = self._group.create_task(self._record_failure(job), name=name)

    @property
    def ending(self) -> bool:
        """Whether the end is decided."""
        return self._decision is not None

    def events(self, limit: int) -> Subscription[QmpEvent]:
        """Return an iterator over QEMU's events until the VM's end, across upgrades."""
        return self._events.subscribe(limit)

    def stop_watching(self) -> None:
        """Before an upgrade: until watch(), the end of the QEMU process does not end the VM."""
        self._replacing = True
        self._tasks["process"].cancel()

    def watch(self, parts: Parts) -> None:
        """After an upgrade: watch *parts*, the old ones or those of the new QEMU."""
        if parts.connection is not self._parts.connection:
            self._tasks["events"].cancel()
            self._start({"events": self._watch_events(parts.connection)})
        self._parts = parts
        self._replacing = False
        self._start({"process": self._watch_process()})

    async def _record_failure(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except Exception as error:
            self.failure = self.failure or error
            raise

    def decide(self, end: End, detail: str) -> None:
        """End the VM in this way, unless its end is decided already."""
        if self._decision is None:
            self._decision = (end, detail)
            self._decided.set()

    async def _watch_events(self, connection: Qmp) -> None:
        with connection.events() as events:
            async for event in events:
                if not (self._replacing and event.name in _UPGRADE_EVENTS):
                    self._events.publish(event)
                if event.name == "GUEST_PANICKED":
                    self.decide(End.PANICKED, "the guest told QEMU so")
                elif event.name == "SHUTDOWN":
                    reason = str(event.data.get("reason", ""))
                    self._quitting = self._quitting or reason in _QUITTING
                    self.decide(shutdown_end(reason), f"QEMU says {reason}")

    async def _watch_process(self) -> None:
        status = await self._parts.process.wait()
        # Its last event may still be in the socket, and says more than the exit status.
        await asyncio.wait([self._tasks["events"]], timeout=_SILENCE_TIMEOUT_S)
        self.decide(End.DIED, self._parts.process.describe_death(status))

    async def _carry_out(self) -> None:
        try:
            await self._decided.wait()
            if self._on_failure is not None and self._has_failed():
                await self._on_failure()
            if self._at_end is not None and self._has_guest:
                await self._at_end()
            if self._parts.process.status is None:
                await self._quit_qemu()
            status = await self._parts.process.terminate(timeout_s=self._stop_timeout_s)
            await self._drain()
            self.outcome = self._judge(status)
            if "CVMLAB_CHECK_ACCOUNTS" in os.environ:  # tests set it
                self._check_accounts()
            if self._parts.memory is not None and self.outcome.end is End.DIED:
                self._parts.memory.files.free()  # a script may go on for hours
        finally:
            self._events.close()
            self.ended.set()

    def _has_failed(self) -> bool:
        end, _ = self._decision or (End.DIED, "")
        ended = end in (End.PANICKED, End.REBOOTED) and self._parts.agent.exit_status is None
        return ended and self._has_guest

    @property
    def _has_guest(self) -> bool:
        """Whether QEMU still has the guest, and can be asked."""
        return self._parts.process.status is None and not self._quitting

    async def _quit_qemu(self) -> None:
        connection, timeout_s = self._parts.connection, self._stop_timeout_s
        _, detail = self._decision or (None, "")
        await connection.end(f"the VM is ending ({detail})", timeout_s=timeout_s)
        if not self._quitting:
            if self._parts.memory is not None:
                reply = await connection.execute_last(
                    "query-restricted-memory", timeout_s=timeout_s
                )
                if reply is None:
                    return  # QEMU does not answer, so do not wait for quit, too
                self.last_info = one_backend(reply)
            await connection.execute_last("quit", timeout_s=timeout_s)
        await self._parts.process.wait_for(timeout_s)

    async def _drain(self) -> None:
        """Read the rest from QEMU's sockets and from the ring."""
        readers = [self._tasks["console"], self._tasks["agent"]]
        await asyncio.wait(readers, timeout=_SILENCE_TIMEOUT_S)
        self._parts.output.finish()
        if self._parts.memory is not None:
            self._tasks["journal"].cancel()
            self._parts.memory.journal.finish()

    def _check_accounts(self) -> None:
        """Raise InvariantError if the memory's books do not agree, as far as they are complete."""
        memory, info = self._parts.memory, self.last_info
        if memory is None or info is None or self.outcome is None or self.outcome.end is End.DIED:
            return
        wrong = memory.differences(info)
        if wrong:
            raise InvariantError(f"{self._parts.run.path}: " + "; ".join(wrong))

    def _judge(self, status: int) -> VmOutcome:
        end, detail = self._decision or (End.DIED, "")
        panic = self._parts.console.kernel_log.panic
        guest_status = self._parts.agent.exit_status
        stop = None if self.last_info is None else self.last_info.stopped
        if status != 0 and end is not End.DIED:
            detail = f"{end}, then QEMU ended with {describe_status(status)}"
            end = End.DIED
        elif panic is not None and end in (End.REBOOTED, End.POWERED_OFF, End.PANICKED):
            end, detail = End.PANICKED, panic
        elif end is End.PANICKED and stop is not None:
            detail = stop.text
        elif end is End.REBOOTED and guest_status is None and _is_triple_fault(stop):
            end, detail = End.TRIPLE_FAULTED, stop.text if stop is not None else detail
        return VmOutcome(end, detail, status, guest_status, stop, self._parts.agent.problem)


def _is_triple_fault(stop: Stop | None) -> bool:
    return stop is not None and stop.reason is StopReason.TRIPLE_FAULT


def ended_before(pattern: str, outcome: VmOutcome, parts: Parts) -> CvmError:
    """Return the error of a wait for *pattern* that the end of the VM has ended."""
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


def only_error(
    errors: Sequence[BaseException], group: BaseExceptionGroup[BaseException]
) -> BaseException:
    """Return the error of the VM if it is the only one in *group*, otherwise the group."""
    return errors[0] if len(errors) == 1 and isinstance(errors[0], CvmError) else group
