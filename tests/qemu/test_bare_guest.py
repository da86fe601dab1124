# SPDX-License-Identifier: GPL-2.0-or-later
"""Acceptance, poison, phases and reset, page by page, on the bare-metal guest."""

from pathlib import Path

import numpy as np
import pytest

from cvmlab.base.errors import CommandRefused
from cvmlab.images import symbols
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.ranges import PAGE_SIZE
from cvmlab.memory.records import Actor, Kind, Phase, Verdict
from cvmlab.memory.states import LAUNCH_FLAG, STATE_MASK, PageState
from tests.qemu.bare import Fault, pattern_word, weighted_sum
from tests.qemu.bare_machine import AREA, BareMachine, Event, page
from tests.qemu.conftest import Boot


pytestmark = pytest.mark.qemu

PENDING, PRIVATE, SHARED = PageState.PENDING, PageState.PRIVATE, PageState.SHARED
PROFILES = ["generic", "sw-protected"]
IMAGE_GPA = 0x100000
VECTOR_MC = 18
MC_UNCORRECTED = 1 << 61


def accepted(gpa: int, rip: str | None) -> Event:
    return Event(Kind.ACCEPT, gpa, vcpu=0, before=PENDING, after=PRIVATE, rip=rip)


def converted(gpa: int, before: PageState, after: PageState, pages: int = 1) -> Event:
    return Event(Kind.CONVERT, gpa, pages, Actor.MONITOR, before=before, after=after)


def without_rip(events: list[Event]) -> list[Event]:
    """Acceptance by first touch may leave the instruction out."""
    return [Event(**{**{f: getattr(e, f) for f in e.__slots__}, "rip": None}) for e in events]


@pytest.mark.parametrize("coco", PROFILES)
class TestFirstTouch:
    async def test_a_load_accepts_exactly_its_page(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.events()
            for index in (0, 3, 7):
                vm.guest.run("touch", page(index), 1)
            events = await vm.events()
            assert without_rip(events) == [accepted(page(i), None) for i in (0, 3, 7)]
            assert {e.rip for e in events} <= {None, "probe_read8"}
            assert vm.states(*map(page, range(8))) == [
                PRIVATE if i in (0, 3, 7) else PENDING for i in range(8)
            ]

    async def test_a_second_touch_is_no_event(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("write", page(0), 0x1234)
            await vm.events()
            assert vm.guest.value("read", page(0)) == 0x1234
            assert vm.guest.run("touch", page(0), 1) == (1,)
            assert await vm.events() == []

    @pytest.mark.parametrize(
        ("command", "pages"),
        [
            (("write", page(1), 5), [1]),
            (("add", page(1), 5), [1]),
            (("exec", page(1)), [1]),
            (("read", page(2) - 4), [1, 2]),
            (("write", page(2) - 4, 5), [1, 2]),
            (("fill", page(1), 3 * PAGE_SIZE, "pattern"), [1, 2, 3]),
            (("touch", page(5), 4), [5, 6, 7, 8]),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else None,
    )
    async def test_each_kind_of_access_accepts(
        self, boot: Boot, coco: str, command: tuple[str, int], pages: list[int]
    ) -> None:
        async with boot(coco=coco) as vm:
            await vm.events()
            assert not isinstance(vm.guest.run(*command), Fault)
            events = without_rip(await vm.events())
            assert sorted(events, key=lambda e: e.gpa) == [accepted(page(i), None) for i in pages]

    async def test_ram_above_4_gib_has_the_right_gpa(self, boot: Boot, coco: str) -> None:
        gpa, offset = (4 << 30) + 0x5000, (2 << 30) + 0x5000
        async with boot(coco=coco, memory_bytes=3 << 30) as vm:
            await vm.events()
            vm.guest.done("write", gpa, 77)
            assert without_rip(await vm.events()) == [accepted(gpa, None)]
            assert vm.table.state(offset // PAGE_SIZE) is PRIVATE
            assert vm.in_file(vm.files.fds.private, offset, 8) == (77).to_bytes(8, "little")

    async def test_content_survives_and_sums_up(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("fill", AREA, 8 * PAGE_SIZE, "pattern")
            words = [pattern_word(AREA + 8 * i) for i in range(8 * PAGE_SIZE // 8)]
            assert vm.guest.value("sum", AREA, 8 * PAGE_SIZE) == weighted_sum(words)


@pytest.mark.parametrize("coco", PROFILES)
class TestLaunch:
    async def test_phases_come_once_each_and_in_order(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            records = vm.records()
            phases = records["flags"][records["kind"] == Kind.PHASE].tolist()
            assert phases == [Phase.FIRMWARE, Phase.KERNEL]
            assert (await vm.info())["phase"] == "kernel"

    async def test_the_image_is_launch_memory_and_content_is_exact(
        self, boot: Boot, coco: str, bare_elf: Path
    ) -> None:
        async with boot(coco=coco) as vm:
            table = vm.table.states()
            first, end = image_pages(bare_elf)
            assert set((table[first:end] & STATE_MASK).tolist()) == {PRIVATE}
            assert all(table[first:end] & LAUNCH_FLAG)
            assert vm.in_file(vm.files.fds.private, IMAGE_GPA, PAGE_SIZE) == first_page(bare_elf)

    async def test_a_boot_has_no_shared_page_and_no_fault(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            info = await vm.info()
            assert info["pages"]["shared"] == 0
            assert info["counters"]["host-faults"] == 0
            assert info["counters"]["guest-violations"] == 0


def first_page(elf: Path) -> bytes:
    """Return the first page of the guest's image: code, so it stays as it was loaded."""
    return elf.read_bytes()[0x1000:0x2000]


def image_pages(elf: Path) -> tuple[int, int]:
    """Return the guest image's first page and the one after its code."""
    addresses = symbols.load(elf).addresses
    end = int(addresses[addresses >= 0xFFFFFFFF80000000].max()) - 0xFFFFFFFF80000000
    return IMAGE_GPA // PAGE_SIZE, -(-end // PAGE_SIZE)


@pytest.mark.parametrize("coco", PROFILES)
class TestConversionByQmp:
    async def test_events_are_one_a_run_of_equal_state(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.run("touch", page(2), 2)
            await vm.events()
            assert await vm.convert("shared", page(0), count=6) == 6
            assert await vm.events() == [
                converted(page(0), PENDING, SHARED, 2),
                converted(page(2), PRIVATE, SHARED, 2),
                converted(page(4), PENDING, SHARED, 2),
            ]
            assert await vm.convert("shared", page(0), count=6) == 0
            assert await vm.events() == []

    async def test_content_is_kept_in_place_and_lost_in_split(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("write", page(0), 0xABCD)
            await vm.convert("shared", page(0))
            kept = 0xABCD if coco == "generic" else 0
            assert vm.guest.value("read", page(0)) == kept
            vm.guest.done("write", page(0), 0x1111)
            await vm.convert("private", page(0))
            assert vm.state(page(0)) is (PRIVATE if coco == "generic" else PENDING)
            assert vm.guest.value("read", page(0)) == (0x1111 if coco == "generic" else 0)

    async def test_a_debuggable_vm_keeps_content_in_both_layouts(
        self, boot: Boot, coco: str
    ) -> None:
        async with boot(coco=coco, debuggable=True) as vm:
            vm.guest.done("write", page(0), 0xABCD)
            await vm.convert("shared", page(0), content="preserve")
            assert vm.guest.value("read", page(0)) == 0xABCD
            await vm.convert("private", page(0), content="preserve")
            assert vm.guest.value("read", page(0)) == 0xABCD
            assert vm.state(page(0)) is PRIVATE
            allowed = [(e.write, e.verdict) for e in await vm.events() if e.kind is Kind.HOST_FAULT]
            both = [(False, Verdict.ALLOW), (True, Verdict.ALLOW)]
            assert allowed == ([] if coco == "generic" else both)

    async def test_discarded_code_does_not_run_stale(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            # mov $0x7777, %eax; ret
            vm.guest.done("write", page(0), 0xC3_00_00_77_77_B8)
            assert vm.guest.value("call", page(0)) == 0x7777
            assert vm.guest.value("exec", page(1)) == 0x600D
            await vm.convert("shared", page(0), content="discard")
            # A page of zeros is code that runs on into the next page.
            assert vm.guest.value("call", page(0)) == 0x600D
            await vm.convert("private", page(0), content="discard")
            assert vm.guest.value("call", page(0)) == 0x600D

    async def test_a_refused_range_changes_nothing(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.change("poison", page(3))
            await vm.events()
            with pytest.raises(CommandRefused, match="page-poisoned"):
                await vm.convert("shared", page(0), count=8)
            assert await vm.events() == []
            assert vm.states(page(0), page(7)) == [PENDING, PENDING]


@pytest.mark.parametrize("coco", PROFILES)
class TestPoison:
    @pytest.mark.parametrize(
        ("command", "function", "write"),
        [
            (("read", page(0) + 8), "probe_read64", False),
            (("write", page(0) + 8, 1), "probe_write64", True),
            # With one CPU, TCG makes a load and a store of it: the load faults.
            (("add", page(0) + 8, 1), "probe_add64", False),
        ],
        ids=["read", "write", "add"],
    )
    async def test_a_touch_is_a_machine_check(
        self, boot: Boot, coco: str, command: tuple[str, int], function: str, *, write: bool
    ) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("write", page(0), 1)
            assert await vm.change("poison", page(0)) == 1
            await vm.events()
            fault = vm.guest.fault(*command)
            assert fault.vector == VECTOR_MC
            assert vm.function(fault.rip) == function
            assert fault.addr is not None
            assert fault.addr // PAGE_SIZE == page(0) // PAGE_SIZE
            assert fault.status is not None
            assert fault.status & MC_UNCORRECTED
            (event,) = await vm.events()
            assert (event.kind, event.gpa, event.write) == (Kind.GUEST_FAULT, page(0), write)
            assert (event.before, event.rip, event.vcpu) == (PageState.POISONED, function, 0)
            assert vm.guest.value("ping") == 0

    async def test_code_in_a_poisoned_page_does_not_run(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            assert vm.guest.value("exec", page(0)) == 0x600D
            await vm.change("poison", page(0))
            fault = vm.guest.fault("call", page(0))
            assert (fault.vector, fault.rip) == (VECTOR_MC, page(0))

    async def test_machine_checks_do_not_pile_up(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.change("poison", page(0), count=4)
            for index in (0, 1, 2, 3, 0, 1):
                assert vm.guest.fault("read", page(index)).vector == VECTOR_MC
            assert (await vm.counters())["guest-faults"] >= 6

    async def test_discard_heals(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("write", page(0), 0x5EC)
            await vm.change("poison", page(0))
            assert await vm.change("discard", page(0)) == 1
            assert vm.state(page(0)) is PENDING
            assert vm.guest.value("read", page(0)) == 0

    async def test_a_device_gets_an_error_from_it(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            await vm.change("poison", page(0))
            await vm.events()
            vm.guest.done("edu-dma", page(0), 0x40000, 16)
            (event,) = await vm.events()
            assert (event.kind, event.before, event.verdict) == (
                Kind.HOST_FAULT, PageState.POISONED, Verdict.DENY,
            )  # fmt: skip


@pytest.mark.parametrize("coco", PROFILES)
class TestReset:
    async def test_reset_is_a_fresh_launch(self, boot: Boot, coco: str) -> None:
        async with boot(coco=coco) as vm:
            before = vm.table.counts()
            vm.guest.done("write", page(0), 0x5EC)
            await vm.convert("shared", page(1))
            await vm.change("poison", page(2))
            vm.records()
            vm.guest.done("reset")
            vm.guest.wait_hello()
            records = vm.records()
            # SeaBIOS, found in memory, resets once more on its own.
            resets = np.flatnonzero(records["kind"] == Kind.RESET)
            assert (await vm.counters())["resets"] == len(resets) > 0
            last = records[resets[-1] :]
            phases = last["flags"][last["kind"] == Kind.PHASE].tolist()
            assert phases == [Phase.LAUNCH, Phase.FIRMWARE, Phase.KERNEL]
            assert vm.states(page(0), page(1), page(2)) == [PENDING] * 3
            assert vm.table.counts() == before
            assert [vm.guest.value("read", page(i)) for i in range(3)] == [0, 0, 0]

    async def test_reset_loads_the_image_again(self, boot: Boot, coco: str, bare_elf: Path) -> None:
        async with boot(coco=coco) as vm:
            vm.guest.done("reset")
            vm.guest.wait_hello()
            assert vm.in_file(vm.files.fds.private, IMAGE_GPA, PAGE_SIZE) == first_page(bare_elf)
            first, end = image_pages(bare_elf)
            assert all(vm.table.states()[first:end] & LAUNCH_FLAG)


class TestSecondCpu:
    """Conversions while another vCPU uses the page."""

    async def test_in_place_conversion_loses_no_store(self, boot: Boot) -> None:
        async with boot(coco="generic", cpus=2) as vm:
            vm.guest.start_counting(page(0))
            for _ in range(50):
                await vm.convert("shared", page(0))
                await vm.convert("private", page(0))
            result = vm.guest.stop_counting()
            assert (result.lost, result.faults) == (0, 0)
            assert result.steps > 100
            assert vm.guest.value("read", page(0)) == result.steps
            events = [e for e in await vm.events() if e.kind is Kind.CONVERT]
            assert events == 50 * [
                converted(page(0), PRIVATE, SHARED), converted(page(0), SHARED, PRIVATE),
            ]  # fmt: skip

    async def test_split_conversion_is_seen_at_once(self, boot: Boot) -> None:
        async with boot(coco="sw-protected", cpus=2) as vm:
            vm.guest.start_counting(page(0))
            for _ in range(50):
                await vm.convert("shared", page(0))
                self.assert_only_in(vm, PageState.SHARED)
                await vm.convert("private", page(0))
            result = vm.guest.stop_counting()
            assert 0 < result.lost <= 100
            assert result.faults == 0

    async def test_the_other_cpu_accepts_under_its_own_name(self, boot: Boot) -> None:
        async with boot(coco="generic", cpus=2) as vm:
            await vm.events()
            vm.guest.start_counting(page(0))
            vm.guest.stop_counting()
            accepts = [e for e in await vm.events() if e.gpa == page(0)]
            assert [(e.kind, e.vcpu) for e in accepts] == [(Kind.ACCEPT, 1)]

    async def test_a_busy_boot_cpu_reads_back_what_it_wrote(self, boot: Boot) -> None:
        async with boot(coco="generic") as vm:
            vm.guest.start_loop(page(0), 16)
            for index in range(64):
                await vm.convert("shared", page(index % 16))
                await vm.convert("private", page(index % 16))
            result = vm.guest.stop_loop()
            assert (result.errors, result.faults) == (0, 0)
            assert result.passes > 0

    def assert_only_in(self, vm: BareMachine, state: PageState) -> None:
        """The running CPU must not have brought the other file's page back."""
        assert vm.state(page(0)) is state
        assert vm.files.fds.shared is not None
        assert vm.in_file(vm.files.fds.private, page(0), 8) == bytes(8)


async def test_pending_stop_pauses_before_the_touch(boot: Boot) -> None:
    async with boot(coco="sw-protected", pending="stop", cont=False) as vm:
        runs = await vm.qmp.execute("query-restricted-memory-ranges", {"id": BACKEND_ID})
        for run in runs:
            if run["state"] == "pending":
                await vm.change("accept", run["gpa"], count=run["size"] // PAGE_SIZE)
        await vm.change("discard", page(0))
        await vm.qmp.execute("cont")
        vm.guest.wait_hello()
        await vm.events()
        with vm.qmp.events() as stream:
            vm.guest.start("read", page(0))
            while (await anext(stream)).name != "STOP":
                pass
        (event,) = await vm.events()
        assert (event.kind, event.gpa, event.before) == (Kind.GUEST_FAULT, page(0), PENDING)
        assert event.rip == "probe_read64"
        assert vm.state(page(0)) is PENDING
        await vm.change("accept", page(0))
        await vm.qmp.execute("cont")
        assert vm.guest.finish() == (0,)
