# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest goes back to a checkpoint: content, page states, counters, CPUs, and nothing is left over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cvmlab.attestation.service_frames import serve
from cvmlab.base.errors import CommandRefused
from cvmlab.machine.command_line import BACKEND_ID
from cvmlab.memory.records import Kind
from cvmlab.memory.states import PageState
from tests.qemu.bare_machine import BareMachine, page
from tests.qemu.conftest import Boot
from tests.qemu.hostpaths import plug_cpu
from tests.qemu.test_services import (
    Told,
    answered,
    ask,
    asking,
    prepare_quotes,
    quoting,
    silent,
    status,
)


pytestmark = pytest.mark.qemu

SOME_TIME = 1 << 32  # one or two seconds of ticks
PROFILES = ["generic", "sw-protected", "tdx", "sev", "sev-es", "sev-snp"]


class Traveller:
    """A VM, and the commands that take it back in time."""

    def __init__(self, vm: BareMachine) -> None:
        self.vm = vm

    async def keep(self, name: str) -> dict[str, Any]:
        answer = await self.vm.qmp.execute(
            "restricted-memory-checkpoint", {"id": BACKEND_ID, "name": name}
        )
        assert isinstance(answer, dict)
        return answer

    async def back(self, name: str) -> dict[str, Any]:
        answer = await self.vm.qmp.execute(
            "restricted-memory-rewind", {"id": BACKEND_ID, "name": name}
        )
        assert isinstance(answer, dict)
        return answer

    async def drop(self, name: str) -> None:
        arguments = {"id": BACKEND_ID, "name": name}
        await self.vm.qmp.execute("restricted-memory-checkpoint-drop", arguments)

    async def names(self) -> list[str]:
        known = await self.vm.qmp.execute("query-restricted-memory-checkpoints", {"id": BACKEND_ID})
        return [item["name"] for item in known]

    def look(self) -> tuple[Any, ...]:
        """Return all that must be as it was: table, counters, storage of both files."""
        vm = self.vm
        return (
            vm.table.states().tobytes(),
            vm.ring.counters(),
            vm.ring.page_counts(),
            vm.files.storage_bytes(),
        )


@asynccontextmanager
async def travelling(boot: Boot, **options: Any) -> AsyncIterator[Traveller]:
    async with boot(**options) as vm:
        yield Traveller(vm)


async def test_the_time_stamp_goes_back_as_often_as_the_guest(boot: Boot) -> None:
    """Else the time of all that is forgotten comes at once, and Linux takes its CPUs for stuck."""
    async with travelling(boot) as to:

        def stamp() -> int:
            return to.vm.guest.value("ticks")

        before = stamp()
        await to.keep("cp")
        for _ in range(3):
            while stamp() < before + SOME_TIME:
                pass
            await to.back("cp")
            await to.vm.qmp.execute("cont")
            assert before < stamp() < before + SOME_TIME


@pytest.mark.parametrize("coco", PROFILES)
async def test_content_states_and_counters_go_back(boot: Boot, coco: str) -> None:
    async with travelling(boot, coco=coco) as travel:
        vm = travel.vm
        vm.guest.write_bytes(page(0), b"before!!")
        vm.guest.write_bytes(page(1), b"kept it!")
        await vm.convert("shared", page(4))
        kept = await travel.keep("a")
        was = travel.look()
        for _ in range(3):
            vm.guest.write_bytes(page(0), b"after it")
            vm.guest.write_bytes(page(2), b"new page")
            await vm.convert("shared", page(1), page(8))
            await vm.change("discard", page(0))
            await vm.convert("private", page(4))
            assert travel.look() != was
            went = await travel.back("a")
            assert went["record"] == kept["record"]
            assert travel.look() == was
            assert vm.guest.read_bytes(page(0), 8) == b"before!!"
            assert vm.guest.read_bytes(page(1), 8) == b"kept it!"
            assert vm.states(page(0), page(4)) == [PageState.PRIVATE, PageState.SHARED]
        kinds = vm.records()["kind"].tolist()
        assert kinds.count(Kind.REWIND) == 3


async def test_pages_that_nothing_has_changed_are_not_copied(boot: Boot) -> None:
    async with travelling(boot, coco="tdx") as travel:
        travel.vm.guest.write_bytes(page(0), b"x" * 8)
        await travel.keep("a")
        await travel.back("a")
        assert (await travel.back("a"))["pages"] < 64


@pytest.mark.parametrize("coco", ["generic", "tdx", "sev-snp"])
async def test_there_may_be_several_and_the_later_ones_go(boot: Boot, coco: str) -> None:
    async with travelling(boot, coco=coco) as travel:
        guest = travel.vm.guest
        looks = {}
        for name in "abcd":
            guest.write_bytes(page(0), name.encode() * 8)
            guest.write_bytes(page(ord(name)), b"its own.")
            await travel.keep(name)
            looks[name] = travel.look()
        await travel.drop("b")
        await travel.back("c")
        assert travel.look() == looks["c"]
        assert await travel.names() == ["a", "c"]
        assert guest.read_bytes(page(0), 8) == b"c" * 8
        await travel.back("a")
        assert travel.look() == looks["a"]
        assert guest.read_bytes(page(0), 8) == b"a" * 8
        await travel.drop("a")
        assert await travel.names() == []
        with pytest.raises(CommandRefused, match="there is no checkpoint 'a'"):
            await travel.back("a")


async def test_a_name_is_taken_once(boot: Boot) -> None:
    async with travelling(boot, coco="generic") as travel:
        await travel.keep("a")
        with pytest.raises(CommandRefused, match="checkpoint 'a' exists already"):
            await travel.keep("a")


@pytest.mark.parametrize("coco", PROFILES)
async def test_a_guest_that_was_reset_goes_back_before_its_reset(boot: Boot, coco: str) -> None:
    async with travelling(boot, coco=coco) as travel:
        vm = travel.vm
        vm.guest.write_bytes(page(0), b"before!!")
        await travel.keep("a")
        was = travel.look()
        await vm.qmp.execute("system_reset")
        vm.guest.wait_hello()
        assert travel.look() != was
        await travel.back("a")
        assert travel.look() == was
        assert vm.guest.read_bytes(page(0), 8) == b"before!!"


async def test_a_host_fault_is_new_again_after_a_rewind(boot: Boot) -> None:
    async with travelling(boot, coco="tdx") as travel:
        vm = travel.vm
        vm.guest.write_bytes(page(0), b"private!")
        await travel.keep("a")
        for _ in range(3):
            before = (await vm.counters())["host-faults"]
            await vm.qmp.execute("human-monitor-command", {"command-line": f"xp /8xb {page(0):#x}"})
            await vm.qmp.execute("human-monitor-command", {"command-line": f"xp /8xb {page(0):#x}"})
            assert (await vm.counters())["host-faults"] == before + 1
            await travel.back("a")


async def test_a_quote_in_flight_is_not_saved_and_not_taken_along(
    boot: Boot, tmp_path: Path
) -> None:
    path = tmp_path / "q.sock"
    async with serve(path, silent), travelling(boot, **quoting(path, 3600)) as travel:
        vm = travel.vm
        prepare_quotes(vm, 2)
        await travel.keep("a")
        assert ask(vm, 0) == 0
        with pytest.raises(CommandRefused, match="a quote is being made for the guest: try again"):
            await travel.keep("b")
        await travel.back("a")
        assert status(vm, 0) == 0
        await travel.keep("b")
        assert ask(vm, 1) == 0


async def test_a_quote_arrives_after_a_rewind(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "q.sock"
    async with travelling(boot, **quoting(path)) as travel:
        prepare_quotes(travel.vm, 1)
        await travel.keep("a")
        for _ in range(2):
            assert ask(travel.vm, 0) == 0
            assert await answered(travel.vm, 0) == 1 << 63 | 1  # nobody is there
            await travel.back("a")


async def test_a_guest_request_is_not_saved(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    service = Told(answers=False)
    async with serve(path, service), asking(boot, path) as (vm, _):
        await service.asked.wait()
        with pytest.raises(CommandRefused, match="a request of the guest is being answered"):
            await Traveller(vm).keep("a")
        service.go_on.set()


async def test_another_machine_does_not_go_back(boot: Boot) -> None:
    async with travelling(boot, coco="tdx", extra=("-smp", "1,maxcpus=2")) as travel:
        await travel.keep("a")
        await plug_cpu(travel.vm)
        with pytest.raises(CommandRefused, match="was plugged in or out since checkpoint 'a'"):
            await travel.back("a")
        travel.vm.guest.write_bytes(page(0), b"it runs!")
