# SPDX-License-Identifier: GPL-2.0-or-later
"""Replace the QEMU under a running guest; its memory stays in place.

A second QEMU, the *destination*, is started on the same memory files with its CPUs stopped.  The
*source* sends it CPUs and devices (migration mode cpr-transfer).  When the destination has loaded
them and describes the same memory, its CPUs are started: this is the point of no return, and the
source quits.  Any earlier failure ends the destination and leaves the source running.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from cvmlab.base.channel import Subscription
from cvmlab.base.errors import (
    CommandRefused,
    ConfigError,
    DeadlineExceeded,
    OutcomeUnknown,
    UpgradeFailed,
    VmExited,
)
from cvmlab.machine.spec import BootSpec, DiskInterface
from cvmlab.profiles.profile import either
from cvmlab.runs.run_dir import load_run
from cvmlab.vm.handover import (
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
from cvmlab.vm.launch import Parts, Setting
from cvmlab.vm.operations import BackendInfo, one_backend
from cvmlab.vm.qmp import Qmp, QmpEvent
from cvmlab.vm.start_failure import start_failure
from cvmlab.vm.successor import Successor, adopt_ports, connect_successor, start_successor


UPGRADE_TIMEOUT_S = 60.0
_RECOVERY_S = 30.0
_QUERY_S = 5.0
_SETTLE_S = 5.0
_INTERVAL_S = 0.002
_RETURN_PATH = {"capability": "return-path", "state": True}


def require_upgradable(
    spec: BootSpec, overlays: Sequence[Path], *, is_logged: bool = False
) -> None:
    """Raise ConfigError if this VM's QEMU cannot be replaced; *is_logged*: it is recorded."""
    if is_logged:
        raise ConfigError(
            "a VM that is recorded or replayed cannot be upgraded: its log is one QEMU's",
            hint="boot it without --record",
        )
    reason = spec.profile.upgrade_refusal
    if reason is not None:
        can = spec.profiles.where(lambda row: row.upgrade_refusal is None)
        raise ConfigError(
            f"a guest of profile {spec.coco} cannot move to another QEMU: {reason}",
            hint=f"boot it with --coco {either(can)}",
        )
    if any(disk.interface is DiskInterface.NVME for disk in spec.disks):
        raise ConfigError(
            "a VM with an NVMe disk cannot be upgraded: QEMU cannot transfer that device",
            hint="attach it as virtio-blk",
        )
    if spec.disks and not overlays:
        raise ConfigError(
            "this VM's disks cannot be handed over: only its QEMU can open the file with its writes",
            hint="run `cvmlab build`, which makes qemu-img, and boot the VM again",
        )
    if spec.gdb is not None:
        raise ConfigError(
            "a VM with a gdb server cannot be upgraded: two QEMUs cannot listen on the same port",
            hint="boot it without --gdb",
        )


@dataclass(frozen=True, slots=True)
class Replaced:
    """The VM's new parts, the stack that closes them, and figures about the upgrade."""

    parts: Parts
    stack: AsyncExitStack
    upgrade: Upgrade
    qmp_socket: Path


@final
class Replacement:
    """One attempt to replace *source*, the ``number``-th of its VM.  Call run() once.

    The caller must not send other commands meanwhile.
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

        :raise CvmError: the source has the guest as before, and the destination has ended.
        :raise VmExited: the guest is lost, because the source died during the upgrade.
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
                # The source is alive, so it was the destination that exited.
                raise UpgradeFailed(error.message) from error
            except BaseException:
                await self._back()
                raise

    async def _forward(self, stack: AsyncExitStack) -> Replaced:
        started_s = time.monotonic()
        source = self._source.connection
        await source.wait_idle(timeout_s=_SETTLE_S)
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
        """Make the source offer its guest, which lets the destination continue its start."""
        source = self._source.connection
        await source.execute("migrate-set-capabilities", {"capabilities": [_RETURN_PATH]})
        await source.execute("migrate-set-parameters", {"mode": "cpr-transfer"})
        channels = [
            _channel("cpr", successor.cpr_socket),
            _channel("main", successor.main_socket),
        ]
        while True:
            # QEMU does not report when it listens, and it would accept a test connection as the real one.
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
                f"only a running VM can be upgraded; this one is {status}",
                hint="resume it (`cvmlab qmp VM cont`), then try again",
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
        """Return the answer, or None if the process has ended.

        Raise DeadlineExceeded if it does not answer: the source may be blocked while it writes to a
        destination that does not read.
        """
        try:
            answer: dict[str, Any] = await connection.execute(query, timeout_s=_QUERY_S)
        except VmExited:
            return None
        return answer

    async def _bytes_sent(self) -> int:
        reply = await self._ask(self._source.connection, "query-migrate")
        return int((reply or {}).get("ram", {}).get("transferred", 0))

    async def _back(self) -> None:
        """Kill the destination and make the source run the guest again, if it is alive.

        Raise VmExited if that is not possible: the guest is lost.
        """
        successor = self._successor
        if successor is None:
            return
        successor.process.kill()
        source, memory = self._source, self._source.memory
        owner = 0 if memory is None else memory.journal.ring.owner
        if not may_return(owner, source.process.pid):
            source.process.kill()
            raise VmExited("the new QEMU took the guest and then died with it")
        try:
            async with asyncio.timeout(_RECOVERY_S):
                await self._recover()
        except (TimeoutError, DeadlineExceeded) as error:
            raise DeadlineExceeded("the old QEMU to resume the guest", _RECOVERY_S) from error

    async def _recover(self) -> None:
        source = self._source.connection
        while True:
            match on_the_way_back(await self._look(None)):
                case WayBack.DONE:
                    # Without this a later `migrate` would not be an ordinary one.
                    await source.execute("migrate-set-parameters", {"mode": "normal"})
                    return
                case WayBack.LOST:
                    raise VmExited("the old QEMU died during the transfer of the guest")
                case WayBack.CONT:
                    await source.execute("cont")
                case WayBack.CANCEL:
                    await source.execute("migrate_cancel")
                case WayBack.WAIT:
                    pass
            await asyncio.sleep(_INTERVAL_S)


async def retire(source: Parts, replaced: Replaced, timeout_s: float) -> str | None:
    """End the old QEMU, and publish the new one for other terminals.

    The guest is in the new QEMU whatever happens here: what goes wrong is returned as a sentence.
    """
    await source.connection.quit(timeout_s=timeout_s)
    await source.process.terminate(timeout_s=timeout_s)
    run = source.run
    try:
        # The old QEMU removes its socket when it exits, so the name is free only now.
        replaced.qmp_socket.replace(run.qmp_socket)
        found = load_run(run.path)
        if found is not None:
            run.publish(msgspec.structs.replace(found.info, qemu=replaced.parts.process.identity))
    except OSError as error:
        return f"other terminals cannot find the new QEMU: {run.path}: {error.strerror}"
    except ConfigError as error:
        return f"other terminals cannot find the new QEMU: {error.message}"
    return None


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
            raise UpgradeFailed(f"the new QEMU describes its memory with another {name}")


async def _commit(destination: Qmp) -> float:
    """Start the guest in the destination; return the time of the start (wall clock)."""
    with destination.events() as events:
        try:
            await destination.execute("cont")
        except OutcomeUnknown as error:
            raise UpgradeFailed("the new QEMU died at the start of the guest") from error
        return await _time_of("RESUME", events)


async def _time_of(name: str, events: Subscription[QmpEvent]) -> float:
    """Return the time of an event that QEMU has sent already; the present time if it died first."""
    async for event in events:
        if event.name == name:
            return event.time_s
    return time.time()
