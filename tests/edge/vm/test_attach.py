# SPDX-License-Identifier: GPL-2.0-or-later
"""A VM operated by somebody who did not start it."""

from pathlib import Path

import pytest

from cvmlab.base.errors import CommandRefused, ConfigError, VmExited
from cvmlab.memory.states import PageState
from cvmlab.vm.outcome import End
from cvmlab.vm.vm import Vm
from tests.fakes.plan import Plan
from tests.fakes.vms import fake_vm


pytestmark = pytest.mark.usefixtures("state_home")


async def test_both_see_what_either_does(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(), name="web") as vm, Vm.attach("web") as other:
        assert await other.convert("1M+1M", "shared") == 256
        assert vm.pages.counts() == other.pages.counts()
        assert vm.pages.runs() == other.pages.runs()
        await vm.convert("1M+4K", "private")
        assert other.pages.state_of(1 << 20) is PageState.PRIVATE
        assert other.pages.counters()["to_shared"] == 256
        with pytest.raises(ConfigError, match="rule: in-range"):
            await other.convert("64M+4K", "shared")
        with pytest.raises(CommandRefused):
            await other.qmp("nonsense")


async def test_leaving_does_not_stop_it(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        async with Vm.attach("vm") as other:
            assert other.name == "vm"
        assert (await vm.query()).policy == "deny"


async def test_stopping_it_is_no_failure_for_its_owner(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        async with Vm.attach("vm") as other:
            await other.stop()
        outcome = await vm.wait_exit(timeout_s=5)
        assert (outcome.end, outcome.exit_code) == (End.STOPPED, 0)


async def test_its_death_ends_what_the_other_waits_for(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm, Vm.attach("vm") as other:
        with other.connection.events() as events:
            await vm.stop()
            names = [event.name async for event in events]
        assert names in ([], ["SHUTDOWN"])
        with pytest.raises(VmExited):
            await other.query()


async def test_a_vm_without_restricted_memory_can_be_attached_to(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan(), coco="off"), Vm.attach("vm") as other:
        with pytest.raises(ConfigError, match="no restricted memory"):
            other.pages.counts()
        await other.pause()


async def test_an_unknown_vm_is_told() -> None:
    with pytest.raises(ConfigError, match="no VM 'nosuch' is running"):
        async with Vm.attach("nosuch"):
            pass


async def test_a_vm_that_hides_its_socket_is_told(tmp_path: Path) -> None:
    async with fake_vm(tmp_path, Plan()) as vm:
        vm.run.qmp_socket.unlink()
        with pytest.raises(ConfigError, match="nothing answers on") as caught:
            async with Vm.attach("vm"):
                pass
        assert "cvmlab ps" in str(caught.value.hint)
