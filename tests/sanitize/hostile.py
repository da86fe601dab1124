# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that attacks, batch by batch: what it calls, what is done to it, how it may end.

The same seed makes the same calls and the same meddling, up to the order in which CPUs run.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path
from typing import Any, final

from cvmlab.base.errors import CommandRefused, CvmError
from cvmlab.machine.spec import BootSpec
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from cvmlab.qemu.build import rom_dirs
from cvmlab.vm.qmp import QmpEvent
from tests.qemu import snp, tdx
from tests.qemu.bare import HELLO, BareGuestError
from tests.qemu.bare_machine import MEMORY_BYTES, BareMachine, page
from tests.sanitize.sanitizers import assert_clean
from tests.sanitize.services import hostile_service


BATCH = 5000  # calls of each CPU in one command
BATCH_DEADLINE_S = 240.0
BOOT_DEADLINE_S = 120.0
GHCB = 0x2800000  # as in guest-images/bare/attack.h
AREA_PAGES = 256
LEFTOVERS = 4
DRAIN_S = 0.01  # the ring holds what a batch can write in this time
RESET_EVERY = 8  # batches
CPUS = 2


class Kinds(IntFlag):
    """enum attack_kind of guest-images/bare/attack.h."""

    TDCALL = 1
    GHCB_MSR = 2
    GHCB_PAGE = 4
    RMP = 8
    MSR = 16
    CPUID = 32
    MEMORY = 64
    HYPERCALL = 128
    MMIO = 256


COMMON = Kinds.MSR | Kinds.CPUID | Kinds.MEMORY | Kinds.HYPERCALL
Prepare = Callable[[BareMachine], None]


def _share_ghcbs(vm: BareMachine) -> None:
    for cpu in range(vm.spec.cpus):
        snp.to_shared(vm.guest, GHCB + cpu * PAGE_SIZE)


def _map_shared(vm: BareMachine) -> None:
    vm.guest.done("map-shared", 0)


@dataclass(frozen=True, slots=True)
class Target:
    """A profile under attack."""

    kinds: Kinds
    prepare: Prepare = _map_shared
    options: dict[str, Any] = field(default_factory=dict)
    has_service: bool = False


# A page that was never accepted must not end the guest, or rounds would be short.
TARGETS = {
    "tdx": Target(
        COMMON | Kinds.TDCALL, tdx.become_td,
        {"guest_options": ("sept-ve-disable=off", "quote-timeout=1")}, has_service=True,
    ),
    "sev-snp": Target(
        COMMON | Kinds.GHCB_MSR | Kinds.GHCB_PAGE | Kinds.RMP, _share_ghcbs, has_service=True
    ),
    "sev-es": Target(COMMON | Kinds.GHCB_MSR | Kinds.GHCB_PAGE, _share_ghcbs),
    "sev": Target(COMMON | Kinds.MMIO),
    "sw-protected": Target(COMMON | Kinds.MMIO),
    "generic": Target(COMMON | Kinds.MMIO),
}  # fmt: skip


@dataclass
class Tally:
    """What a series of rounds did."""

    calls: int = 0
    faults: int = 0
    lost_cpus: int = 0  # by an AP destruction
    resets: int = 0
    conversions: int = 0
    relented: int = 0  # stops for a page that the host then converted
    asked: Counter[str] = field(default_factory=Counter)  # of the services
    ends: Counter[str] = field(default_factory=Counter)


@final
class Siege:
    """One VM whose guest attacks.  ``meddled``: the host converts and resets underneath."""

    def __init__(self, vm: BareMachine, seed: int, tally: Tally, *, meddled: bool) -> None:
        self._vm = vm
        self._target = TARGETS[vm.spec.coco]
        self._seed = seed
        self._random = random.Random(seed)
        self._tally = tally
        self._meddled = meddled
        self._stop: QmpEvent | None = None
        self._faulted = 0  # GPA of the last guest fault

    async def run(self, calls: int) -> str:
        """Attack until that many calls were made; return how the guest ended, or nothing."""
        until = self._tally.calls + calls
        with self._vm.qmp.events(1 << 16) as stream:
            watcher = asyncio.create_task(self._watch(stream))
            try:
                await self._prepare()
                batch = 0
                while self._tally.calls < until and not self._stop:
                    batch += 1
                    await self._batch(batch)
            except BareGuestError as error:
                return self._named() or f"the guest gave up: {error}"
            finally:
                watcher.cancel()
        return self._named()

    def _named(self) -> str:
        """Return the name of the ending; the plugin says it before the VM stops."""
        if self._stop is None:
            return ""
        if self._stop.name == "RESTRICTED_MEMORY_STOPPED":
            return f"stopped: {self._stop.data['stop']['reason']}"
        return self._stop.name

    async def _prepare(self) -> None:
        await asyncio.to_thread(self._target.prepare, self._vm)

    async def _batch(self, number: int) -> None:
        seed = self._seed + (number << 40)
        self._vm.guest.start("attack", seed, BATCH, int(self._target.kinds), 1)
        answer = asyncio.create_task(asyncio.to_thread(self._outcome))
        is_reset = self._meddled and number % RESET_EVERY == 0
        try:
            if is_reset:
                self._tally.resets += 1
                await self._vm.qmp.execute("system_reset")
            await self._meddle_until(answer)
        except BaseException:
            self._vm.guest.hang_up()
            await asyncio.gather(answer, return_exceptions=True)  # its error says less
            raise
        values = answer.result()
        if values:
            self._tally.calls += values[0]
            self._tally.faults += values[1]
            self._tally.lost_cpus += values[2]
        if values and is_reset:  # it had answered before the reset
            await asyncio.to_thread(self._outcome)
        if is_reset or not values:
            await asyncio.to_thread(self._settle)
            await self._prepare()

    async def _meddle_until(self, answer: asyncio.Task[tuple[int, ...] | None]) -> None:
        while not answer.done():
            await asyncio.wait({answer}, timeout=DRAIN_S)
            self._drain()
            if self._stop and not answer.done():
                self._vm.guest.hang_up()
            elif self._meddled and not answer.done():
                await self._convert()

    def _settle(self) -> None:
        """Have the guest answer a ping: a reset leaves half a command in its port, or a whole one."""
        self._vm.guest.start("ping")
        for _ in range(LEFTOVERS):
            with suppress(BareGuestError):
                if len(self._values()) == 1:
                    return
        raise BareGuestError("no answer to a ping after a reset")

    def _values(self) -> tuple[int, ...]:
        values = self._vm.guest.finish(BATCH_DEADLINE_S)
        assert isinstance(values, tuple), values
        return values

    def _outcome(self) -> tuple[int, ...] | None:
        """Return the answer to a batch; None if the guest has booted instead."""
        try:
            return self._values()
        except (BareGuestError, ValueError) as error:  # half an answer, then the greeting
            if HELLO in str(error):
                return None
            raise BareGuestError(str(error)) from error

    async def _convert(self) -> None:
        first = page(self._random.randrange(AREA_PAGES))
        verb = self._random.choice(["convert", "convert", "discard", "accept"])
        to = {"to": self._random.choice(["shared", "private"])} if verb == "convert" else {}
        with suppress(CommandRefused):
            count = self._random.choice([1, 1, 8, 64])
            self._tally.conversions += await self._vm.change(verb, first, count=count, **to)

    async def _watch(self, stream: Any) -> None:
        reason: QmpEvent | None = None
        async for event in stream:
            match event.name:
                case "RESTRICTED_MEMORY_STOPPED":
                    reason = event
                case "STOP" if reason and await self._relents(reason):
                    reason = None
                case "STOP" if reason:
                    self._stop = reason
                    return
                case "GUEST_PANICKED" | "SHUTDOWN":
                    self._stop = event
                    return

    async def _relents(self, reason: QmpEvent) -> bool:
        """Do what a VMM may do about a page that the guest used wrongly; tell if it goes on."""
        if reason.data["stop"]["reason"] != "guest-fault":
            return False
        self._drain()
        gpa = self._faulted & ~(PAGE_SIZE - 1)
        if gpa >= MEMORY_BYTES:
            return False
        to = "private" if self._vm.state(gpa) is PageState.SHARED else "shared"
        try:
            await self._vm.convert(to, gpa)
            await self._vm.qmp.execute("cont")
        except CommandRefused:
            return False
        self._tally.relented += 1
        return True

    def _drain(self) -> None:
        records = self._vm.records()
        faults = records["gpa"][records["kind"] == Kind.GUEST_FAULT]
        if len(faults):
            self._faulted = int(faults[-1])


def machine(coco: str, elf: Path, **options: Any) -> BootSpec:
    """Return the machine of an attack."""
    return BootSpec(
        coco=coco, cpus=CPUS, memory_bytes=MEMORY_BYTES, kernel=elf, rom_dirs=tuple(rom_dirs()),
        allow_reboot=True, **{**TARGETS[coco].options, **options},
    )  # fmt: skip


async def attack_round(
    qemu: Path, elf: Path, folder: Path, coco: str, seed: int, calls: int, tally: Tally,
    *, meddled: bool = False,
) -> None:  # fmt: skip
    """Boot a guest that attacks with *seed*, at most *calls* times; add to *tally*.

    Raise AssertionError if QEMU reports an error of its own, dies, hangs, leaks, or its books do
    not balance at the end.
    """
    name = f"{coco} seed {seed:#x}"
    options: dict[str, Any] = {}
    service: AbstractAsyncContextManager[Any] = nullcontext()
    if TARGETS[coco].has_service:
        options["quote_socket"] = folder / "s"
        service = hostile_service(folder / "s", seed, tally.asked)
    log = folder / "qemu.log"
    try:
        async with (
            service,
            BareMachine.start(qemu, machine(coco, elf, **options), folder) as vm,
        ):
            ended = await Siege(vm, seed, tally, meddled=meddled).run(calls)
            vm.is_intact = vm.ring.dropped == 0
    except (CvmError, AssertionError, OSError) as error:
        assert_clean(log, name)  # says more than that QEMU is gone
        raise AssertionError(
            f"{name}: {error!r}, {log.read_text(errors='replace')[-2000:]}"
        ) from error
    tally.ends[ended or "went on"] += 1
    assert_clean(log, name)
