# SPDX-License-Identifier: GPL-2.0-or-later
"""How a VM ends: decided once, then carried out in the order that QEMU's shutdown asks for.

QEMU runs with ``-action shutdown=pause``: at power-off it stops the CPUs and waits.  That is when
nothing more is submitted, what is in flight is answered, the last state is read, and ``quit`` is
sent as the last command of all (design D11).
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, final

from cvmlab.channel import Subscription, Topic
from cvmlab.launch import Parts
from cvmlab.operations import BackendInfo, one_backend
from cvmlab.outcome import End, Outcome, shutdown_end
from cvmlab.process import describe_status
from cvmlab.qmp import Qmp, QmpEvent


_SILENCE_TIMEOUT_S = 2.0
_FATAL = " guest reports a fatal error "  # QEMU's words, in its log
# QEMU that others told to quit does not pause but goes: a command now may hit a monitor that is
# half torn down.
# A QEMU that hands its guest over stops it, and one that takes it over starts it.
_OF_A_HANDOVER = ("STOP", "RESUME")
_LEAVING = ("host-qmp-quit", "host-signal", "host-ui")


@final
class Supervisor:
    """Watches a VM's parts and carries out its end.  Call start() once, in the VM's task group."""

    def __init__(self, parts: Parts, *, stop_timeout_s: float) -> None:
        self.outcome: Outcome | None = None
        self.last_info: BackendInfo | None = None
        self.failure: Exception | None = None  # what ended the tasks, if not the VM's own end
        self.ended = asyncio.Event()
        self._parts = parts
        self._stop_timeout_s = stop_timeout_s
        self._decision: tuple[End, str] | None = None
        self._decided = asyncio.Event()
        self._leaving = False
        self._replacing = False
        self._events: Topic[QmpEvent] = Topic()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to read from and to watch over the VM; a defect in here ends the group."""
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
            raise AssertionError
        for name, job in jobs.items():
            self._tasks[name] = self._group.create_task(self._noting_failure(job), name=name)

    @property
    def ending(self) -> bool:
        """Is the end decided?"""
        return self._decision is not None

    def events(self, limit: int) -> Subscription[QmpEvent]:
        """Return an iterator over QEMU's events until the VM's end, whichever QEMU runs it."""
        return self._events.subscribe(limit)

    def look_away(self) -> None:
        """The VM's QEMU is about to be replaced: until watch(), its death is not the VM's."""
        self._replacing = True
        self._tasks["process"].cancel()

    def watch(self, parts: Parts) -> None:
        """Go on with *parts*, the ones before or those of the QEMU that replaced them."""
        if parts.connection is not self._parts.connection:
            self._tasks["events"].cancel()
            self._start({"events": self._watch_events(parts.connection)})
        self._parts = parts
        self._replacing = False
        self._start({"process": self._watch_process()})

    async def _noting_failure(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except Exception as error:
            self.failure = self.failure or error
            raise

    def decide(self, end: End, detail: str) -> None:
        """Let the VM end in this way, unless its end is decided already."""
        if self._decision is None:
            self._decision = (end, detail)
            self._decided.set()

    async def _watch_events(self, connection: Qmp) -> None:
        with connection.events() as events:
            async for event in events:
                if not (self._replacing and event.name in _OF_A_HANDOVER):
                    self._events.publish(event)
                if event.name == "GUEST_PANICKED":
                    self.decide(End.PANICKED, "the guest told QEMU so")
                elif event.name == "SHUTDOWN":
                    reason = str(event.data.get("reason", ""))
                    self._leaving = self._leaving or reason in _LEAVING
                    self.decide(shutdown_end(reason), f"QEMU says {reason}")

    async def _watch_process(self) -> None:
        status = await self._parts.process.wait()
        # Its last event may still be in the socket, and says more.
        await asyncio.wait([self._tasks["events"]], timeout=_SILENCE_TIMEOUT_S)
        self.decide(End.DIED, f"QEMU died with {describe_status(status)}")

    async def _carry_out(self) -> None:
        try:
            await self._decided.wait()
            if self._parts.process.status is None:
                await self._take_leave()
            status = await self._parts.process.terminate(timeout_s=self._stop_timeout_s)
            await self._hear_out()
            self.outcome = self._judge(status)
        finally:
            self._events.close()
            self.ended.set()

    async def _take_leave(self) -> None:
        connection, timeout_s = self._parts.connection, self._stop_timeout_s
        _, detail = self._decision or (None, "")
        await connection.end(f"the VM is ending ({detail})", timeout_s=timeout_s)
        if not self._leaving:
            if self._parts.memory is not None:
                reply = await connection.execute_last(
                    "query-restricted-memory", timeout_s=timeout_s
                )
                if reply is None:
                    return  # it does not answer, so asking it to quit would only take longer
                self.last_info = one_backend(reply)
            await connection.execute_last("quit", timeout_s=timeout_s)
        await self._parts.process.wait_for(timeout_s)

    async def _hear_out(self) -> None:
        """Read what QEMU left in its sockets and in the ring."""
        readers = [self._tasks["console"], self._tasks["agent"]]
        await asyncio.wait(readers, timeout=_SILENCE_TIMEOUT_S)
        if self._parts.memory is not None:
            self._tasks["journal"].cancel()
            self._parts.memory.journal.finish()

    def _judge(self, status: int) -> Outcome:
        end, detail = self._decision or (End.DIED, "")
        panic = self._parts.console.panic
        if status != 0 and end is not End.DIED:
            detail = f"{end}, then QEMU ended with {describe_status(status)}"
            end = End.DIED
        elif panic is not None and end in (End.REBOOTED, End.POWERED_OFF, End.PANICKED):
            end, detail = End.PANICKED, panic
        elif end is End.PANICKED:
            detail = _last_words(self._parts.process.log_tail()) or detail
        return Outcome(end, detail, status, self._parts.agent.exit_status)


def _last_words(log: Sequence[str]) -> str | None:
    """Return what QEMU reported for a guest that gave up by a call to its host."""
    said = [line for line in log if _FATAL in line]
    return said[-1].partition(": ")[2] if said else None
