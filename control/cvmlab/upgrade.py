# SPDX-License-Identifier: GPL-2.0-or-later
"""Replace the QEMU under a running guest; its memory stays where it is.

A second QEMU, the *destination*, is started on the same memory files with its CPUs stopped.  The
*source* sends it CPUs and devices (migration mode cpr-transfer).  When it has all of it and describes
the same memory, it is let run: that is the point of no return, and the source quits.  Before it,
whatever fails leaves the source running and the destination gone.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from cvmlab.bootspec import BootSpec, DiskInterface
from cvmlab.channel import Subscription
from cvmlab.errors import (
    CommandRefused,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    UpgradeFailed,
    VmExited,
)
from cvmlab.handover import (
    GONE,
    Look,
    Stage,
    Transfer,
    Upgrade,
    WayBack,
    during_transfer,
    may_return,
    on_the_way_back,
)
from cvmlab.launch import (
    Parts,
    Setting,
    Successor,
    adopt_ports,
    connect_successor,
    start_failure,
    start_successor,
)
from cvmlab.operations import BackendInfo, one_backend
from cvmlab.qmp import Qmp, QmpEvent
from cvmlab.rundir import load_run


UPGRADE_TIMEOUT_S = 60.0
_RECOVERY_S = 30.0
_LOOK_S = 5.0
_SETTLE_S = 5.0
_INTERVAL_S = 0.002
_RETURN_PATH = {"capability": "return-path", "state": True}


# The plugin refuses them as well: their state has no description that migration could use.
_NOT_CARRIED = frozenset({"sev", "sev-es", "sev-snp"})


def require_upgradable(spec: BootSpec, overlays: Sequence[Path]) -> None:
    """Raise ConfigError if this VM's QEMU cannot be replaced."""
    if not spec.restricted:
        raise ConfigError(
            "without restricted memory a guest cannot outlive its QEMU, whose memory it has",
            hint="boot it with --coco generic",
        )
    if spec.coco in _NOT_CARRIED:
        raise ConfigError(
            f"a guest of profile {spec.coco} cannot outlive its QEMU: the state of its vCPUs "
            "would be lost",
            hint="profiles that can: generic, sw-protected, tdx",
        )
    if any(disk.interface is DiskInterface.NVME for disk in spec.disks):
        raise ConfigError(
            "a VM with an NVMe disk cannot be upgraded: QEMU cannot transfer that device",
            hint="attach it as virtio-blk",
        )
    if spec.disks and not overlays:
        raise ConfigError(
            "this VM's disks cannot be handed over: what it wrote is in a file of its QEMU alone",
            hint="`cvmlab build` makes the qemu-img that is needed to boot it otherwise",
        )
    if spec.gdb is not None:
        raise ConfigError(
            "a VM with a gdb server cannot be upgraded: two QEMUs cannot listen on one port",
            hint="boot it without --gdb",
        )


@dataclass(frozen=True, slots=True)
class Replaced:
    """The parts of the VM from now on, what closes them, and what it took to get there."""

    parts: Parts
    stack: AsyncExitStack
    upgrade: Upgrade
    qmp_socket: Path


@final
class Replacement:
    """One attempt to replace *source*, the ``number``-th of its VM.  Call run() once.

    The caller sees to it that nobody else gives commands meanwhile.
    """

    def __init__(self, source: Parts, setting: Setting, *, number: int, timeout_s: float) -> None:
        self._source = source
        self._setting = setting
        self._number = number
        self._timeout_s = timeout_s
        self._stage = Stage.SETTLE
        self._successor: Successor | None = None

    async def run(self) -> Replaced:
        """Replace it.

        :raise CvmError: the source has the guest as before, and the destination is gone.
        :raise VmExited: the guest is lost, because the source died on the way.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._forward(stack)
            except TimeoutError as error:
                await self._back()
                raise DeadlineExceeded(
                    self._stage.value, self._timeout_s, hint=UpgradeFailed.HINT
                ) from error
            except VmExited as error:
                await self._back()
                if self._successor is None:
                    raise
                # The source is there, so it was the destination that exited.
                raise UpgradeFailed(error.message) from error
            except BaseException:
                await self._back()
                raise

    async def _forward(self, stack: AsyncExitStack) -> Replaced:
        started_s = time.monotonic()
        source = self._source.connection
        await source.settle(timeout_s=_SETTLE_S)
        self._source.agent.hold()
        await self._source.console.hold(timeout_s=_SETTLE_S)
        await self._require_running()
        before = one_backend(await source.execute("query-restricted-memory"))
        self._stage = Stage.START
        successor = start_successor(stack, self._source, self._setting, self._number)
        self._successor = successor
        with source.events() as events:
            await self._send(successor)
            parts = await connect_successor(stack, successor, self._source, self._setting)
            self._stage = Stage.TRANSFER
            await _receive(parts.connection, successor)
            await self._transfer(parts.connection)
            stopped_s = await _time_of("STOP", events)
        self._stage = Stage.VERIFY
        await _require_same(before, parts.connection)
        bytes_sent = await self._bytes_sent()
        await adopt_ports(stack, successor, self._source)
        self._stage = Stage.COMMIT
        running_s = await _commit(parts.connection)
        upgrade = Upgrade(
            old_version=self._source.qemu_version,
            new_version=parts.qemu_version,
            old_pid=self._source.process.pid,
            new_pid=parts.process.pid,
            downtime_s=round(max(running_s - stopped_s, 0.0), 6),
            total_s=round(time.monotonic() - started_s, 6),
            bytes_sent=bytes_sent,
        )
        return Replaced(parts, stack.pop_all(), upgrade, successor.qmp_socket)

    async def _send(self, successor: Successor) -> None:
        """Have the source offer its guest: now the destination goes on starting."""
        source = self._source.connection
        await source.execute("migrate-set-capabilities", {"capabilities": [_RETURN_PATH]})
        await source.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        channels = [
            _channel("cpr", successor.cpr_socket),
            _channel("main", successor.main_socket),
        ]
        while True:
            # Nothing says when it listens, and a connection to find out would be the one it takes.
            try:
                if successor.cpr_socket.exists():
                    await source.execute("migrate", {"channels": channels})
                    return
            except CommandRefused as error:
                if "Failed to connect" not in error.desc:
                    raise
            if successor.process.status is not None:
                raise await start_failure(successor.process, self._setting.stop_timeout_s)
            await asyncio.sleep(_INTERVAL_S)

    async def _require_running(self) -> None:
        status = (await self._source.connection.execute("query-status"))["status"]
        if status != "running":
            raise ConfigError(
                f"only a running VM can be upgraded, this one is {status}",
                hint="let it run (`cvmlab qmp VM cont`), then try again",
            )

    async def _transfer(self, destination: Qmp) -> None:
        while True:
            look = await self._look(destination)
            match during_transfer(look):
                case Transfer.LOADED:
                    return
                case Transfer.BACK:
                    raise await self._failure(look)
                case Transfer.WAIT:
                    await asyncio.sleep(_INTERVAL_S)

    async def _failure(self, look: Look) -> UpgradeFailed:
        reasons = [*self._log_tail()]
        if look.migration is not GONE:
            reply = await self._ask(self._source.connection, "query-migrate")
            reasons.insert(0, str((reply or {}).get("error-desc", "no reason was given")))
        return UpgradeFailed("the guest could not be handed over", reasons)

    def _log_tail(self) -> list[str]:
        return [] if self._successor is None else self._successor.process.log_tail()

    async def _look(self, destination: Qmp | None) -> Look:
        source = self._source.connection
        migration = await self._ask(source, "query-migrate")
        status = await self._ask(source, "query-status")
        ours = None if destination is None else await self._ask(destination, "query-status")
        return Look(
            GONE if migration is None else migration.get("status", "none"),
            GONE if status is None else status["status"],
            GONE if ours is None else ours["status"],
        )

    async def _ask(self, connection: Qmp, query: str) -> dict[str, Any] | None:
        """Return the answer, None if the process is gone.

        Raise DeadlineExceeded if it does not answer: that of an upgrade's source may be
        writing to a destination that does not read.
        """
        try:
            answer: dict[str, Any] = await connection.execute(query, timeout_s=_LOOK_S)
        except VmExited:
            return None
        return answer

    async def _bytes_sent(self) -> int:
        reply = await self._ask(self._source.connection, "query-migrate")
        return int((reply or {}).get("ram", {}).get("transferred", 0))

    async def _back(self) -> None:
        """Kill the destination and have the source run the guest again, if it is still there.

        Raise VmExited if neither can: the guest is lost.
        """
        successor = self._successor
        if successor is None:
            return
        successor.process.kill()
        source, memory = self._source, self._source.memory
        owner = 0 if memory is None else memory.journal.ring.owner
        if not may_return(owner, source.process.pid):
            source.process.kill()
            raise VmExited("the new QEMU had taken the guest, and is gone with it")
        try:
            async with asyncio.timeout(_RECOVERY_S):
                await self._recover()
        except (TimeoutError, DeadlineExceeded) as error:
            raise DeadlineExceeded("the old QEMU to go on", _RECOVERY_S) from error

    async def _recover(self) -> None:
        source = self._source.connection
        while True:
            match on_the_way_back(await self._look(None)):
                case WayBack.DONE:
                    return
                case WayBack.LOST:
                    raise VmExited("the old QEMU died while the guest was on its way")
                case WayBack.CONT:
                    await source.execute("cont")
                case WayBack.CANCEL:
                    await source.execute("migrate_cancel")
                case WayBack.WAIT:
                    pass
            await asyncio.sleep(_INTERVAL_S)


async def retire(source: Parts, replaced: Replaced, timeout_s: float) -> None:
    """End the QEMU that was replaced, and let other terminals find the one that replaced it."""
    await source.connection.quit(timeout_s=timeout_s)
    await source.process.terminate(timeout_s=timeout_s)
    run = source.run
    # It has removed its own socket at its end, so only now is the name free.
    replaced.qmp_socket.replace(run.qmp_socket)
    found = load_run(run.path)
    if found is not None:
        run.publish(msgspec.structs.replace(found.info, qemu=replaced.parts.process.identity))


def _channel(kind: str, path: Path) -> dict[str, object]:
    address = {"transport": "socket", "type": "unix", "path": str(path)}
    return {"channel-type": kind, "addr": address}


async def _receive(destination: Qmp, successor: Successor) -> None:
    await destination.execute("migrate-set-capabilities", {"capabilities": [_RETURN_PATH]})
    await destination.execute("migrate-incoming", {"uri": f"unix:{successor.main_socket}"})


async def _require_same(before: BackendInfo, destination: Qmp) -> None:
    after = one_backend(await destination.execute("query-restricted-memory"))
    for name in ("id", "size", "profile", "layout", "policy", "slots"):
        if getattr(before, name) != getattr(after, name):
            raise UpgradeFailed(f"the new QEMU says that the memory has another {name}")


async def _commit(destination: Qmp) -> float:
    """Let the destination run the guest; return when it did (wall clock)."""
    with destination.events() as events:
        try:
            await destination.execute("cont")
        except OutcomeUnknown as error:
            raise UpgradeFailed("the new QEMU died when it was to run the guest") from error
        return await _time_of("RESUME", events)


async def _time_of(name: str, events: Subscription[QmpEvent]) -> float:
    """Return when QEMU sent an event that it has sent already, or died before it did."""
    async for event in events:
        if event.name == name:
            return event.time_s
    return time.time()
